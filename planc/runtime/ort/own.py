"""Takes planc's own operators out of a model where a device has kernels for them, and writes out the others."""

from collections.abc import Callable, Iterator, Mapping

import onnx
from onnx.inliner import inline_local_functions

from planc.graph.fused import DOMAIN as FUSED
from planc.graph.inplace import in_place_inputs
from planc.kernels import DOMAIN, Call, TensorType, call_of
from planc.kernels.engines import form_of
from planc.runtime.ort.custom_ops import Operator


def declared_types(model: onnx.ModelProto) -> Mapping[str, TensorType]:
    """The types of all tensors that the model declares."""
    graph = model.graph
    values = {v.name: v.type.tensor_type for v in (*graph.value_info, *graph.input, *graph.output)}
    found = {name: TensorType(t.elem_type, tuple(d.dim_value for d in t.shape.dim)) for name, t in values.items()}
    return found | {i.name: TensorType(i.data_type, tuple(i.dims)) for i in graph.initializer}


def replaced(
    model: onnx.ModelProto, types: Mapping[str, TensorType], make: Callable[[str, Call, str | None], Operator | None]
) -> list[Operator]:
    """Give every node of planc's domain that `make` has a kernel for an operator of its own, and take its function out.

    `make` gets the function's name, the call, and the form that the node is marked with; equal calls of one form share one
    operator. Functions without a kernel stay.
    """
    made: dict[tuple[str, str | None], Operator | None] = {}
    for node in model.graph.node:
        if node.domain != DOMAIN:
            continue
        name, form = node.op_type, form_of(node)
        if (name, form) not in made:
            made[name, form] = make(name, call_of(node, types), form)
        operator = made[name, form]
        if operator is not None:
            node.op_type = operator.name
            del node.attribute[:]
    gone = {name for (name, _), operator in made.items() if operator is not None}
    kept = [f for f in model.functions if f.domain != DOMAIN or f.name not in gone]
    del model.functions[:]
    model.functions.extend(kept)
    return list({operator.name: operator for operator in made.values() if operator is not None}.values())


def has_functions(model_bytes: bytes) -> bool:
    """Whether a segment's model may call functions: operators of planc's own, or joined element-wise ones."""
    return DOMAIN.encode() in model_bytes or FUSED.encode() in model_bytes


def written_out(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the body of every function that is left in the place of its call.

    ONNX Runtime runs nodes in file order, on which planned addresses rely, but appends bodies that it inlines itself. A
    kernel may write its first output over an operand that it has read; a body reads operands until its end, so there the
    first output is a copy, made last.
    """
    if not model.functions:
        return model
    arity = {(node.domain, node.op_type): len(node.input) for node in model.graph.node}
    for function in model.functions:
        if in_place_inputs(function.name, function.domain, arity.get((function.domain, function.name), 0)):
            _made_last(function)
    found = inline_local_functions(model)
    _drop_unread(found)
    return found


def _drop_unread(model: onnx.ModelProto) -> None:
    """Take out what nobody reads of the bodies: ONNX Runtime frees a value behind its last reader, so one without readers,
    such as the indices of a MaxPool, would take scratch until the session's run ends."""
    versions = {opset.domain: opset.version for opset in model.opset_import}
    read, kept = {output.name for output in model.graph.output}, list[onnx.NodeProto]()
    for node in reversed(model.graph.node):
        if not any(output in read for output in node.output):
            continue
        for position, output in enumerate(node.output):
            if output not in read and _is_optional(node, position, versions):
                node.output[position] = ""
        while not node.output[-1]:
            del node.output[-1]
        read.update(_reads(node))
        kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(kept))


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from _reads(inner)
            yield from (output.name for output in graph.output)


def _is_optional(node: onnx.NodeProto, position: int, versions: Mapping[str, int]) -> bool:
    if not onnx.defs.has(node.op_type, node.domain):
        return False
    schema = onnx.defs.get_schema(node.op_type, versions[node.domain], node.domain)
    return bool(schema.outputs[position].option == onnx.defs.OpSchema.FormalParameterOption.Optional)


def _made_last(function: onnx.FunctionProto) -> None:
    """Let the first output of a function be a copy of what its body makes, and the copy its last node."""
    name = function.output[0]
    made = f"{name}.made"
    for node in function.node:
        for values in (node.input, node.output):
            for position, value in enumerate(values):
                if value == name:
                    values[position] = made
    function.node.append(onnx.helper.make_node("Identity", [made], [name]))
