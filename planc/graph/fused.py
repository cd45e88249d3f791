"""Fused operators: stretches of element-wise operators that one kernel computes, element by element.

A fused operator is a node of domain `DOMAIN`; what it computes is an ONNX function of standard operators, so that its
meaning needs no other words. Numbers of half precision are widened as they are read and rounded as they are written, or
where the model casts to such a type: results of arithmetic in between stay float32. Each operator has here the C
expression that rounds as ONNX Runtime's CUDA kernel does in float32, which a test on a card checks operator by operator.
"""

from collections.abc import Mapping, Sequence

import onnx
from onnx import TensorProto, helper

DOMAIN = "planc.fused"

VERSION = 3
"""Of the domain, and of the way operators are grouped: part of a fused graph's hash."""

EXPRESSIONS = {
    "Add": "{0} + {1}",
    "Sub": "{0} - {1}",
    "Mul": "{0} * {1}",
    "Div": "{0} / {1}",
    "Neg": "-{0}",
    "Abs": "fabsf({0})",
    "Sqrt": "sqrtf({0})",
    "Exp": "expf({0})",
    "Log": "logf({0})",
    "Erf": "erff({0})",
    "Sin": "sinf({0})",
    "Cos": "cosf({0})",
    "Tanh": "tanhf({0})",
    "Reciprocal": "1.0f / {0}",
    "Sigmoid": "{0} > 0.0f ? 1.0f / (1.0f + expf(-fabsf({0}))) : 1.0f - 1.0f / (1.0f + expf(-fabsf({0})))",
    "Relu": "{0} > 0.0f || {0} != {0} ? {0} : 0.0f",
    "Identity": "{0}",
    "Greater": "{0} > {1}",
    "GreaterOrEqual": "{0} >= {1}",
    "Less": "{0} < {1}",
    "LessOrEqual": "{0} <= {1}",
    "And": "{0} && {1}",
    "Or": "{0} || {1}",
    "Not": "!{0}",
    "Where": "{0} ? {1} : {2}",
}
"""C expression of each element-wise operator over float and bool operands; Cast is apart."""

PREDICATES = frozenset({"Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Not"})
"""Those whose result is a bool."""

C_TYPES: dict[int, str] = {
    TensorProto.FLOAT: "float",
    TensorProto.BOOL: "bool",
    TensorProto.FLOAT16: "Half",
    TensorProto.BFLOAT16: "Brain",
}
"""C types of the ONNX element types that a fused operator may touch; the last two are bits, which `CASTS` convert."""

CASTS: dict[tuple[str, str], str] = {
    ("bool", "float"): "{0} ? 1.0f : 0.0f",
    ("float", "float"): "{0}",
    ("Half", "float"): "from_half({0})",
    ("Brain", "float"): "from_brain({0})",
    ("float", "Half"): "to_half({0})",
    ("float", "Brain"): "to_brain({0})",
}
"""C expression of a Cast from one C type to another."""

HALVES: Mapping[str, int] = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}

FLOATS = frozenset({"float32", *HALVES})

_OF_BOOLS = frozenset({"And", "Or", "Not"})


def is_fusable(op_type: str, domain: str, inputs: Sequence[str], output: str) -> bool:
    """Whether a fused kernel can compute the operator, given the dtypes of its inputs and of its output."""
    if domain not in ("", "ai.onnx") or not inputs:
        return False
    if op_type == "Cast":
        return output in FLOATS and inputs[0] in FLOATS | {"bool"}
    if op_type not in EXPRESSIONS or op_type == "Identity":
        return False
    kind = "bool" if op_type in _OF_BOOLS else inputs[-1]
    wanted = ["bool", kind, kind] if op_type == "Where" else [kind] * len(inputs)
    known = kind == "bool" or kind in FLOATS
    return known and list(inputs) == wanted and output == ("bool" if op_type in PREDICATES else kind)


def function(
    name: str, nodes: Sequence[onnx.NodeProto], inputs: Sequence[str], outputs: Sequence[str], opset: int
) -> onnx.FunctionProto:
    """The ONNX function that a fused operator computes."""
    return helper.make_function(DOMAIN, name, inputs, outputs, nodes, [helper.make_opsetid("", opset)])
