"""Brings a forward model into the form that differentiation reads.

Operator set 18, concrete shapes, no Constant nodes and no arithmetic on constants, permutations written out, every node in
a layer whose nodes are contiguous. What planc cannot treat is refused by name: control flow, sequences, unknown domains.
"""

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper

from planc.errors import ModelError
from planc.graph.annotations import annotate_node, node_annotation
from planc.graph.inference import known_types
from planc.graph.wellformed import is_external, malformed, tensors_of
from planc.training.emit.builder import FLOATS, Shape, Var
from planc.training.emit.opset import at_least_target
from planc.training.prepare.expand import expand_operators, inline_local_functions
from planc.training.prepare.fold import bypass_identities, fold_constants, share_constants
from planc.training.prepare.sequences import unpack_sequences
from planc.training.refused import REFUSED

SHAPE_ELEMENTS = 64
"""Initializers up to this size may be shapes, axes or scales; larger ones only make shape inference copy them."""


@dataclass(frozen=True)
class Prepared:
    """A canonical forward model: `values` knows every tensor's shape and dtype."""

    model: onnx.ModelProto
    values: Mapping[str, Var]
    version: int
    """The opset that the model's nodes are written in."""

    @property
    def initializers(self) -> dict[str, TensorProto]:
        return {t.name: t for t in self.model.graph.initializer}


def canonical(forward: onnx.ModelProto, dims: Mapping[str, int]) -> onnx.ModelProto:
    """A copy of `forward` at opset 18 or newer with its symbolic dimensions bound and shapes inferred.

    Raises ModelError for what planc refuses, for a symbolic dimension that `dims` does not bind, and for a model that
    ONNX finds inconsistent.
    """
    model = onnx.ModelProto()
    model.CopyFrom(forward)
    for text in malformed(model):
        raise ModelError(f"not a valid ONNX model: {text}")
    for tensor in filter(is_external, tensors_of(model)):
        raise ModelError(f"the values of {tensor.name!r} lie in another file; load them into the model first")
    model = inline_local_functions(model)
    unpack_sequences(model)
    _refuse_unsupported(model)
    _bind_dimensions(model, dims)
    return infer_shapes(at_least_target(model))


def prepare(model: onnx.ModelProto, ruled: Collection[str], trained: Collection[str]) -> Prepared:
    """Expand what is not in `ruled`, fold constants, order layers and resolve every shape of a canonical model.

    Raises ModelError for an operator between a `trained` initializer and the model's outputs that has no gradient.
    """
    fold_constants(model)
    _refuse_untrainable(model, trained)
    while expand_operators(model, ruled, known_values(infer_shapes(model))):
        infer_shapes(model)
        fold_constants(model)
    bypass_identities(model, _values(infer_shapes(model)))
    share_constants(model, trained)
    infer_shapes(model)
    _assign_layers(model)
    values = _values(model)
    _write_permutations(model, values)
    version = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    return Prepared(model, values, version)


def infer_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Fill `value_info` of `model` in place, without copying its weights. Raises ModelError when ONNX refuses it."""
    skeleton = onnx.ModelProto()
    graph = skeleton.graph
    skeleton.ir_version = max(model.ir_version, 8)
    skeleton.opset_import.extend(model.opset_import)
    graph.node.extend(model.graph.node)
    graph.output.extend(onnx.ValueInfoProto(name=info.name, type=_kind(info)) for info in model.graph.output)
    known = {i.name for i in model.graph.input}
    graph.input.extend(model.graph.input)
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= SHAPE_ELEMENTS:
            graph.initializer.append(tensor)
        elif tensor.name not in known:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    types = known_types(skeleton, "shape inference")
    outputs = {info.name: info for info in model.graph.output}
    del model.graph.value_info[:]
    for name in (name for node in model.graph.node for name in node.output if name in types):
        info = helper.make_tensor_value_info(name, *types[name])
        if name in outputs:
            outputs[name].type.CopyFrom(info.type)
        else:
            model.graph.value_info.append(info)
    return model


def _kind(info: onnx.ValueInfoProto) -> onnx.TypeProto:
    """The type of an output without its shape, which is inferred."""
    kind = onnx.TypeProto()
    kind.tensor_type.elem_type = info.type.tensor_type.elem_type
    return kind


def _refuse_unsupported(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx"):
            raise ModelError(
                f"node {node.name!r}: operator {node.domain}::{node.op_type} is not a standard ONNX operator; export "
                "the model with standard operators"
            )
        if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute):
            raise ModelError(f"node {node.name!r}: control flow ({node.op_type}) is not supported; unroll it first")
        if node.op_type.startswith(("Sequence", "Optional", "ConcatFromSequence", "SplitToSequence")):
            raise ModelError(f"node {node.name!r}: {node.op_type} works on sequences or optionals, not tensors")
    for info in (*model.graph.input, *model.graph.output):
        if not info.type.HasField("tensor_type"):
            raise ModelError(f"{info.name!r} is not a tensor; planc plans tensors only")


def _refuse_untrainable(model: onnx.ModelProto, trained: Collection[str]) -> None:
    """Raise ModelError for an operator that has no gradient where a parameter's would pass through it."""
    values, active = known_values(model), set(trained)
    for node in model.graph.node:
        if active.isdisjoint(node.input):
            continue
        if node.op_type in REFUSED:
            raise ModelError(f"node {node.name!r} ({node.op_type}) cannot be trained through: {REFUSED[node.op_type]}")
        active.update(name for name in node.output if name not in values or values[name].dtype in FLOATS)


def _bind_dimensions(model: onnx.ModelProto, dims: Mapping[str, int]) -> None:
    for info in model.graph.input:
        for axis, dim in enumerate(info.type.tensor_type.shape.dim):
            if dim.HasField("dim_value") and dim.dim_value > 0:
                continue
            if dim.dim_param not in dims:
                named = repr(dim.dim_param) if dim.dim_param else "without a name"
                raise ModelError(
                    f"input {info.name!r}: dimension {axis} ({named}) is not bound; give its size, e.g. --dim "
                    f"{dim.dim_param or 'batch'}=16"
                )
            dim.dim_value = dims[dim.dim_param]
    # Inferred again from the bound inputs.
    del model.graph.value_info[:]
    for info in model.graph.output:
        info.type.tensor_type.ClearField("shape")


def known_values(model: onnx.ModelProto) -> dict[str, Var]:
    """Every tensor whose static shape is known so far."""
    graph = model.graph
    values = {t.name: Var(t.name, tuple(t.dims), t.data_type) for t in graph.initializer}
    for info in (*graph.input, *graph.value_info, *graph.output):
        shape = _static_shape(info)
        if shape is not None:
            values.setdefault(info.name, Var(info.name, shape, info.type.tensor_type.elem_type))
    return values


def _static_shape(info: onnx.ValueInfoProto) -> Shape | None:
    tensor = info.type.tensor_type
    if not tensor.HasField("shape") or any(not d.HasField("dim_value") for d in tensor.shape.dim):
        return None
    return tuple(d.dim_value for d in tensor.shape.dim)


def _values(model: onnx.ModelProto) -> dict[str, Var]:
    """Every tensor of the model. Raises ModelError for one whose shape is not static."""
    values = known_values(model)
    for node in model.graph.node:
        for name in node.output:
            if name and name not in values:
                raise ModelError(
                    f"node {node.name!r} ({node.op_type}): the shape of its output {name!r} is not static; bind its "
                    "dimensions with --dim name=size"
                )
    return values


def _write_permutations(model: onnx.ModelProto, values: Mapping[str, Var]) -> None:
    """Give every Transpose that reverses its axes because nothing else is said the attribute that says so."""
    for node in model.graph.node:
        if node.op_type == "Transpose" and not node.attribute:
            node.attribute.append(helper.make_attribute("perm", range(values[node.input[0]].rank)[::-1]))


def _assign_layers(model: onnx.ModelProto) -> None:
    """Give every node a unique name and a layer whose nodes are contiguous; a layer met again gets a serial."""
    names, serial, previous = set[str](), dict[str, int](), ""
    for node, (layer, kind) in zip(model.graph.node, _wanted_layers(model), strict=True):
        if layer != previous:
            serial[layer] = serial.get(layer, 0) + 1
            previous = layer
        unique = layer if serial[layer] == 1 else f"{layer}#{serial[layer]}"
        annotate_node(node, unique, kind, "forward")
        node.name = _unique_name(node, names)
        names.add(node.name)


def _wanted_layers(model: onnx.ModelProto) -> Iterator[tuple[str, str]]:
    """The annotated layer of each node, else one of its own named after the node or its output."""
    for node in model.graph.node:
        known = node_annotation(node)
        yield known[:2] if known else (node.name or node.output[0], node.op_type.lower())


def _unique_name(node: onnx.NodeProto, taken: set[str]) -> str:
    name, serial = node.name or f"{node.op_type}.{node.output[0]}", 2
    while name in taken:
        name, serial = f"{node.name or node.op_type}.{serial}", serial + 1
    return name
