"""GELU (Hendrycks and Gimpel, 2016), x Phi(x) with the exact normal distribution, and its gradient: a pass each.

For a CPU with oneDNN, where they take the place of five passes forward and thirteen backward. Kept for the gradient: X.
"""

import math
from collections.abc import Sequence
from functools import partial

from onnx import TensorProto

from planc.kernels.body import Body
from planc.kernels.device import GeluKernel
from planc.kernels.operator import Call, Operator, TensorType, register


def _types(call: Call) -> tuple[TensorType, ...]:
    first, *rest = call.inputs
    if first.dtype != TensorProto.FLOAT or any(other != first for other in rest):
        raise call.refuse("float32 tensors of one shape")
    return (first,)


def _normal(body: Body, x: str) -> str:
    """Phi(x) = erf(x / sqrt 2) / 2 + 1/2."""
    half = body.number(0.5)
    return body.op("Add", body.op("Mul", body.op("Erf", body.op("Mul", x, body.number(math.sqrt(0.5)))), half), half)


def _forward(_call: Call, body: Body) -> Sequence[str]:
    (x,) = body.inputs
    return [body.op("Mul", x, _normal(body, x))]


def _gradient(_call: Call, body: Body) -> Sequence[str]:
    """dx = dy (Phi(x) + x phi(x))."""
    dy, x = body.inputs
    power = body.op("Exp", body.op("Mul", body.op("Mul", x, x), body.number(-0.5)))
    density = body.op("Mul", power, body.number(1 / math.sqrt(2 * math.pi)))
    return [body.op("Mul", dy, body.op("Add", _normal(body, x), body.op("Mul", x, density)))]


def _library(gradient: bool, call: Call) -> GeluKernel | None:
    size = call.inputs[0].size
    return GeluKernel(gradient, size) if size else None


GELU = register(Operator("Gelu", ("x",), ("y",), _types, _forward, cpu=partial(_library, False), in_place=(0,)))

GELU_GRADIENT = register(
    Operator("GeluGradient", ("dy", "x"), ("dx",), _types, _gradient, cpu=partial(_library, True), in_place=(0, 1))
)

__all__ = ["GELU", "GELU_GRADIENT"]
