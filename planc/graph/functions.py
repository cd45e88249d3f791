"""The function bodies that ONNX gives its operators, and which operators ONNX Runtime replaces by theirs.

A session inlines a function operator that it has no kernel for, and allocates the inner tensors by itself, where no
plan sees them. Such operators are replaced by their bodies before anything is planned.
"""

from collections.abc import Mapping
from typing import Any

import onnx
from onnx import TensorProto, defs, helper

from planc.errors import ModelError
from planc.graph.annotations import annotate_node, node_annotation

INLINED = frozenset(
    {"CastLike", "CenterCropPad", "GroupNormalization", "HardSwish", "Mish", "Swish"}
    | {"NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"}
)
"""Function operators without a kernel in ONNX Runtime 1.31.1, whatever the type. Bernoulli is not among them: it draws,
so it has a session of its own, in which its inner values are scratch that is measured."""

INLINED_DOUBLE = frozenset(
    {"Elu", "HardSigmoid", "LeakyRelu", "PRelu", "Selu", "Softplus", "Softsign", "ThresholdedRelu"}
)
"""Function operators that have kernels, but not in float64."""

TensorTypes = Mapping[str, tuple[int, tuple[int, ...]]]
"""Element type and shape by name."""


def is_inlined(node: onnx.NodeProto, types: TensorTypes) -> bool:
    """Whether a session has no kernel for `node`, but a body."""
    if node.domain not in ("", "ai.onnx"):
        return False
    double = any(types[name][0] == TensorProto.DOUBLE for name in node.input if name in types)
    return node.op_type in INLINED or (node.op_type in INLINED_DOUBLE and double)


def function_body(node: onnx.NodeProto, version: int, types: TensorTypes) -> onnx.FunctionProto | None:
    """The newest function body of `node`'s operator that opset `version` allows, None where it has none.

    Raises ModelError for an operator that the opset lacks.
    """
    try:
        schema: Any = defs.get_schema(node.op_type, version, "")  # its type stub lacks the function members
    except defs.SchemaError as error:
        raise ModelError(f"node {node.name!r}: opset {version} has no operator {node.op_type}") from error
    if schema.has_function:
        usable = [v for v in schema.function_opset_versions if v <= version]
        text = schema.get_function_with_opset_version(max(usable)) if usable else None
    elif schema.has_context_dependent_function:
        usable = [v for v in schema.context_dependent_function_opset_versions if v <= version]
        given = [_type(*types[name]) if name in types else b"" for name in node.input]
        call = node.SerializeToString()
        text = schema.get_context_dependent_function_with_opset_version(max(usable), call, given) if usable else None
    else:
        text = None
    return onnx.FunctionProto.FromString(text) if text else None


def _type(dtype: int, shape: tuple[int, ...]) -> bytes:
    text: bytes = helper.make_tensor_type_proto(dtype, shape).SerializeToString()
    return text


def instantiated(call: onnx.NodeProto, body: onnx.FunctionProto, version: int, prefix: str) -> list[onnx.NodeProto]:
    """The body's nodes with its formal names replaced by the call's, its attributes bound and the rest prefixed.

    They belong to the layer and phase of the call.
    """
    renamed = dict.fromkeys((*body.input, *body.output), "")
    renamed |= dict(zip(body.input, call.input, strict=False)) | dict(zip(body.output, call.output, strict=False))
    defaults = defs.get_schema(call.op_type, version, "").attributes
    given = {name: a.default_value for name, a in defaults.items() if a.default_value.name}
    given |= {a.name: a for a in (*body.attribute_proto, *call.attribute)}
    layer, kind, phase = node_annotation(call) or (call.name or call.output[0], call.op_type.lower(), "forward")
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
        annotate_node(node, layer, kind, phase)
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
