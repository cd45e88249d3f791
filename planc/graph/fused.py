"""Fused operators: stretches of element-wise operators that one kernel computes, element by element.

A fused operator is a node of domain `DOMAIN`; what it computes is an ONNX function of standard operators, so that its
meaning needs no other words. Each of them has here the C expression that rounds as ONNX Runtime's CUDA kernel does, which
a test on a card checks operator by operator.
"""

from collections.abc import Sequence

import onnx
from onnx import TensorProto, helper

DOMAIN = "planc.fused"

VERSION = 1
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
    "Erf": "erff({0})",
    "Tanh": "tanhf({0})",
    "Reciprocal": "1.0f / {0}",
    "Sigmoid": "{0} > 0.0f ? 1.0f / (1.0f + expf(-fabsf({0}))) : 1.0f - 1.0f / (1.0f + expf(-fabsf({0})))",
    "Relu": "{0} > 0.0f || {0} != {0} ? {0} : 0.0f",
    "Greater": "{0} > {1}",
    "Less": "{0} < {1}",
    "And": "{0} && {1}",
    "Not": "!{0}",
    "Where": "{0} ? {1} : {2}",
    "Cast": "{0} ? 1.0f : 0.0f",
}
"""C expression of each element-wise operator over float and bool operands."""

PREDICATES = frozenset({"Greater", "Less", "And", "Not"})
"""Those whose result is a bool."""

C_TYPES: dict[int, str] = {TensorProto.FLOAT: "float", TensorProto.BOOL: "bool"}
"""C types of the ONNX element types that a fused operator may touch."""

_OF_FLOATS = set(EXPRESSIONS) - {"And", "Not", "Where", "Cast"}


def is_fusable(op_type: str, domain: str, inputs: Sequence[str], output: str) -> bool:
    """Whether a fused kernel can compute the operator, given the dtypes of its inputs and of its output."""
    if domain not in ("", "ai.onnx") or op_type not in EXPRESSIONS:
        return False
    given = "float32" if op_type in _OF_FLOATS else "bool"
    wanted = ["bool", "float32", "float32"] if op_type == "Where" else [given] * len(inputs)
    return list(inputs) == wanted and output == ("bool" if op_type in PREDICATES else "float32")


def function(
    name: str, nodes: Sequence[onnx.NodeProto], inputs: Sequence[str], outputs: Sequence[str], opset: int
) -> onnx.FunctionProto:
    """The ONNX function that a fused operator computes."""
    return helper.make_function(DOMAIN, name, inputs, outputs, nodes, [helper.make_opsetid("", opset)])
