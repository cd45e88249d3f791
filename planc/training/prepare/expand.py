"""Replaces calls of functions by their bodies: model-local functions, and standard operators planc has no rule for."""

from collections.abc import Collection, Mapping
from typing import Any

import onnx
from onnx import defs, helper, inliner

from planc.errors import ModelError
from planc.graph.annotations import annotate_node, node_annotation
from planc.training.emit.builder import FLOATS, Var
from planc.training.prepare.einsum import einsum_body


def inline_local_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` with every call of a function it defines itself replaced by the body."""
    return inliner.inline_local_functions(model) if model.functions else model


def expand_operators(model: onnx.ModelProto, ruled: Collection[str], values: Mapping[str, Var]) -> bool:
    """Replace, in place, each operator that is not in `ruled`, yields floats and has an ONNX function body.

    Returns whether anything was replaced; the new nodes' shapes must then be inferred. Nodes of a body belong to the
    layer of the node they replace. Raises ModelError for an operator that the model's opset lacks.
    """
    versions = {entry.domain: entry.version for entry in model.opset_import}
    version, nodes, changed = versions.get("", versions.get("ai.onnx", 0)), [], False
    for serial, node in enumerate(model.graph.node):
        body = None if node.op_type in ruled or not _yields_floats(node, values) else _body(node, version, values)
        if body is None:
            nodes.append(node)
            continue
        changed = True
        nodes += _instantiated(node, body, version, f"{node.name or node.op_type}.{serial}")
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return changed


def _yields_floats(node: onnx.NodeProto, values: Mapping[str, Var]) -> bool:
    """Whether some input and some output (as far as it is known) are floats."""
    floats = [[values[n].dtype in FLOATS for n in names if n in values] for names in (node.input, node.output)]
    return any(floats[0]) and (any(floats[1]) or not floats[1])


def _body(node: onnx.NodeProto, version: int, values: Mapping[str, Var]) -> onnx.FunctionProto | None:
    """The newest function body of `node`'s operator that the model's opset allows, or planc's own for an Einsum."""
    if node.op_type == "Einsum" and all(name in values for name in node.input):
        return einsum_body(node, [values[name].shape for name in node.input], version)
    try:
        schema: Any = defs.get_schema(node.op_type, version, "")  # its type stub lacks the function members
    except defs.SchemaError as error:
        raise ModelError(f"node {node.name!r}: opset {version} has no operator {node.op_type}") from error
    if schema.has_function:
        usable = [v for v in schema.function_opset_versions if v <= version]
        text = schema.get_function_with_opset_version(max(usable)) if usable else None
    elif schema.has_context_dependent_function:
        usable = [v for v in schema.context_dependent_function_opset_versions if v <= version]
        types = [_type(values[name]) if name in values else b"" for name in node.input]
        call = node.SerializeToString()
        text = schema.get_context_dependent_function_with_opset_version(max(usable), call, types) if usable else None
    else:
        text = None
    return onnx.FunctionProto.FromString(text) if text else None


def _type(value: Var) -> bytes:
    text: bytes = helper.make_tensor_type_proto(value.dtype, value.shape).SerializeToString()
    return text


def _instantiated(call: onnx.NodeProto, body: onnx.FunctionProto, version: int, prefix: str) -> list[onnx.NodeProto]:
    """The body's nodes with its formal names replaced by the call's, its attributes bound and the rest prefixed."""
    renamed = dict.fromkeys((*body.input, *body.output), "")
    renamed |= dict(zip(body.input, call.input, strict=False)) | dict(zip(body.output, call.output, strict=False))
    defaults = defs.get_schema(call.op_type, version, "").attributes
    given = {name: a.default_value for name, a in defaults.items() if a.default_value.name}
    given |= {a.name: a for a in (*body.attribute_proto, *call.attribute)}
    layer, kind, _ = node_annotation(call) or (call.name or call.output[0], call.op_type.lower(), "")
    made = []
    for position, inner in enumerate(body.node):
        node = onnx.NodeProto()
        node.CopyFrom(inner)
        node.name = f"{prefix}.{inner.op_type}.{position}"
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name:
                    names[index] = renamed.get(name) if renamed.get(name) else f"{prefix}.{name}"
        bound = [_bind(a, given) for a in inner.attribute]
        del node.attribute[:]
        node.attribute.extend(a for a in bound if a is not None)
        annotate_node(node, layer, kind, "forward")
        made.append(node)
    return made


def _bind(attribute: onnx.AttributeProto, given: Mapping[str, onnx.AttributeProto]) -> onnx.AttributeProto | None:
    """`attribute`, or what the call gives for the formal attribute that it refers to."""
    if not attribute.ref_attr_name:
        return attribute
    actual = given.get(attribute.ref_attr_name)
    if actual is None:
        return None
    bound = onnx.AttributeProto()
    bound.CopyFrom(actual)
    bound.name = attribute.name
    return bound
