"""GELU (Hendrycks and Gimpel, 2016), x Phi(x), and its gradient: a pass each. Phi is the exact normal distribution, or
with `tanh`, (1 + tanh u) / 2 = sigmoid(2u) with u = sqrt(2/pi) (x + 0.044715 x^3).

For a CPU with oneDNN, where they take the place of five passes forward and thirteen backward. Kept for the gradient: X.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial

from onnx import TensorProto

from planc.kernels.body import Body
from planc.kernels.device import GeluKernel
from planc.kernels.operator import Attribute, Call, Operator, TensorType, register

_ATTRIBUTES: Mapping[str, Attribute] = {"tanh": 0}

SLOPE, CUBIC = 2 * math.sqrt(2 / math.pi), 2 * math.sqrt(2 / math.pi) * 0.044715
"""2u = `SLOPE` x + `CUBIC` x^3."""


def _types(call: Call) -> tuple[TensorType, ...]:
    first, *rest = call.inputs
    if first.dtype != TensorProto.FLOAT or any(other != first for other in rest):
        raise call.refuse("float32 tensors of one shape")
    return (first,)


def _normal(body: Body, x: str) -> str:
    """Phi(x) = erf(x / sqrt 2) / 2 + 1/2."""
    half = body.number(0.5)
    return body.op("Add", body.op("Mul", body.op("Erf", body.op("Mul", x, body.number(math.sqrt(0.5)))), half), half)


def _polynomial(body: Body, square: str, cubic: float) -> str:
    """`SLOPE` + `cubic` x^2."""
    return body.op("Add", body.op("Mul", square, body.number(cubic)), body.number(SLOPE))


def _sigmoid(body: Body, x: str, square: str) -> str:
    return body.op("Sigmoid", body.op("Mul", x, _polynomial(body, square, CUBIC)))


def _forward(call: Call, body: Body) -> Sequence[str]:
    (x,) = body.inputs
    phi = _sigmoid(body, x, body.op("Mul", x, x)) if call.whole("tanh") else _normal(body, x)
    return [body.op("Mul", x, phi)]


def _gradient(call: Call, body: Body) -> Sequence[str]:
    """dx = dy (Phi(x) + x phi(x)); with `tanh` and s = sigmoid(2u), dx = dy s (1 + x (1 - s) 2u')."""
    dy, x = body.inputs
    if call.whole("tanh"):
        square = body.op("Mul", x, x)
        s, slope = _sigmoid(body, x, square), _polynomial(body, square, 3 * CUBIC)
        rest = body.op("Mul", body.op("Mul", slope, x), body.op("Sub", body.number(1.0), s))
        return [body.op("Mul", dy, body.op("Mul", s, body.op("Add", rest, body.number(1.0))))]
    power = body.op("Exp", body.op("Mul", body.op("Mul", x, x), body.number(-0.5)))
    density = body.op("Mul", power, body.number(1 / math.sqrt(2 * math.pi)))
    return [body.op("Mul", dy, body.op("Add", _normal(body, x), body.op("Mul", x, density)))]


def _library(gradient: bool, call: Call) -> GeluKernel | None:
    size = call.inputs[0].size
    return GeluKernel(gradient, size, bool(call.whole("tanh"))) if size else None


GELU = register(
    Operator("Gelu", ("x",), ("y",), _types, _forward, _ATTRIBUTES, cpu=partial(_library, False), in_place=(0,))
)

GELU_GRADIENT = register(
    Operator(
        "GeluGradient",
        ("dy", "x"),
        ("dx",),
        _types,
        _gradient,
        _ATTRIBUTES,
        cpu=partial(_library, True),
        in_place=(0, 1),
    )
)

__all__ = ["CUBIC", "GELU", "GELU_GRADIENT", "SLOPE"]
