"""Elementary functions and rounding beyond ONNX's own, with torch's results at the ends of their ranges."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from onnx import TensorProto

from planc.torch.lowering import TorchLowering, aten, lower
from planc.training.emit.builder import FLOATS, Var

_UNARY = {
    "Acos": (aten.acos.default,),
    "Acosh": (aten.acosh.default,),
    "Asin": (aten.asin.default,),
    "Asinh": (aten.asinh.default,),
    "Atanh": (aten.atanh.default,),
    "Cosh": (aten.cosh.default,),
    "Sinh": (aten.sinh.default,),
}


def _unary(op_type: str) -> Callable[..., Var]:
    return lambda c, self: c.b.unary(op_type, c.b.cast(self, c.specs[0][1]))


for _op_type, _targets in _UNARY.items():
    lower(*_targets)(_unary(_op_type))


def _scaled_log(factor: float) -> Callable[..., Var]:
    return lambda c, self: c.b.mul(c.b.unary("Log", c.b.cast(self, c.specs[0][1])), factor)


lower(aten.log2.default)(_scaled_log(1 / math.log(2)))
lower(aten.log10.default)(_scaled_log(1 / math.log(10)))


@lower(aten.exp2.default)
def exp2(c: TorchLowering, self: Var) -> Var:
    """2 ** self."""
    a = c.b.cast(self, c.specs[0][1])
    return c.b.op("Pow", [c.b.scalar_for(2.0, a), a], a.shape)


@lower(aten.pow.Scalar)
def power_of(c: TorchLowering, self: float, exponent: Var) -> Var:
    """A number raised to a tensor."""
    shape, dtype = c.specs[0]
    a = c.b.cast(exponent, dtype)
    return c.b.op("Pow", [c.b.scalar_for(self, a), a], shape)


@lower(aten.log1p.default)
def log1p(c: TorchLowering, self: Var) -> Var:
    """log(1 + x) x / ((1 + x) - 1), which loses no digits of a small x (Kahan, in Goldberg, 1991)."""
    b, a = c.b, c.b.cast(self, c.specs[0][1])
    u = b.add(a, 1.0)
    log, rest = b.unary("Log", u), b.sub(u, 1.0)
    exact = b.compare("Equal", rest, a)  # also where 1 + x is x, as at infinity
    corrected = b.mul(log, b.div(a, rest))
    small = b.where(b.compare("Equal", rest, 0.0), a, corrected)
    return b.where(exact, b.where(b.compare("Equal", a, 0.0), a, log), small)


@lower(aten.expm1.default)
def expm1(c: TorchLowering, self: Var) -> Var:
    """2 t / (1 - t) with t = tanh(x / 2) for small x, which loses no digits; else exp(x) - 1."""
    b, a = c.b, c.b.cast(self, c.specs[0][1])
    near = b.compare("Less", b.unary("Abs", a), 0.5)
    t = b.unary("Tanh", b.mul(b.where(near, a, 0.0), 0.5))
    return b.where(near, b.div(b.mul(t, 2.0), b.sub(1.0, t)), b.sub(b.unary("Exp", a), 1.0))


_ERFC = (
    -1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806, 0.27886807, -1.13520398, 1.48851587, -0.82215223,
    0.17087277,
)  # fmt: skip
"""Chebyshev coefficients of erfc, relative error below 1.2e-7 (Press et al., Numerical Recipes, section 6.2)."""


@lower(aten.erfc.default)
def erfc(c: TorchLowering, self: Var) -> Var:
    """1 - erf(x), with all its digits where it is small."""
    b, a = c.b, c.b.cast(self, c.specs[0][1])
    z = b.unary("Abs", a)
    t = b.unary("Reciprocal", b.add(b.mul(z, 0.5), 1.0))
    series: Var | float = _ERFC[-1]
    for coefficient in reversed(_ERFC[:-1]):
        series = b.add(b.mul(t, series), coefficient)
    tail = b.mul(t, b.unary("Exp", b.sub(series, b.mul(z, z))))
    return b.where(b.compare("Greater", a, 0.5), tail, b.sub(1.0, b.unary("Erf", a)))


def _negative(c: TorchLowering, a: Var) -> Var:
    """Where the sign bit of `a` is set, of zeros too."""
    below = c.b.compare("Less", a, 0.0)
    if a.dtype not in FLOATS:
        return below
    return c.b.op("Or", [below, c.b.compare("Less", c.b.unary("Reciprocal", a), 0.0)], a.shape)


@lower(aten.atan2.default)
def atan2(c: TorchLowering, self: Var, other: Var) -> Var:
    """The angle of (other, self), in [-pi, pi], the signs of zeros minded as IEEE 754 has it."""
    b, (shape, dtype) = c.b, c.specs[0]
    y, x = (b.expand(b.cast(v, dtype), shape) for v in (self, other))
    both = b.op("And", [b.op("IsInf", [v], shape, TensorProto.BOOL) for v in (y, x)], shape)
    top, bottom = (b.where(both, b.unary("Sign", v), v) for v in (y, x))
    flat, upright = b.compare("Equal", top, 0.0), b.compare("Equal", bottom, 0.0)
    turn = b.where(_negative(c, y), b.scalar_for(-math.pi, y), math.pi)
    base = b.unary("Atan", b.div(top, b.where(upright, 1.0, bottom)))
    steep = b.where(flat, top, b.mul(turn, 0.5))
    found = b.where(upright, steep, base)
    behind = b.op("And", [_negative(c, x), b.unary("Not", b.op("And", [upright, b.unary("Not", flat)], shape))], shape)
    found = b.where(behind, b.add(b.where(flat, 0.0, found), turn), found)
    undefined = b.op("Or", [b.op("IsNaN", [v], shape, TensorProto.BOOL) for v in (y, x)], shape)
    return b.where(undefined, math.nan, found)


@lower(aten.signbit.default)
def signbit(c: TorchLowering, self: Var) -> Var:
    """Whether the sign bit is set."""
    return _negative(c, self)


@lower(aten.copysign.Tensor, aten.copysign.Scalar, raw=("other",))
def copysign(c: TorchLowering, self: Var, other: Any) -> Var:
    """|self| with the sign of other."""
    shape, dtype = c.specs[0]
    size, number = c.b.unary("Abs", c.b.cast(self, dtype)), c.number(other)
    if number is not None:
        return c.b.unary("Neg", size) if math.copysign(1.0, number) < 0 else size
    return c.b.expand(c.b.where(_negative(c, c.b.cast(c.value(other), dtype)), c.b.unary("Neg", size), size), shape)


@lower(aten.hypot.default, torch.ops.prims.hypot.default)
def hypot(c: TorchLowering, self: Var, other: Var) -> Var:
    """The root of the sum of two squares, scaled by the larger so that neither overflows."""
    b, (shape, dtype) = c.b, c.specs[0]
    sizes = [b.unary("Abs", b.cast(v, dtype)) for v in (self, other)]
    large, small = b.op("Max", sizes, shape), b.op("Min", sizes, shape)
    infinite = b.op("Or", [b.op("IsInf", [v], v.shape, TensorProto.BOOL) for v in sizes], shape)
    plain = b.op("Or", [b.compare("Equal", large, 0.0), infinite], shape)
    ratio = b.div(small, b.where(plain, 1.0, large))
    found = b.where(plain, large, b.mul(large, b.unary("Sqrt", b.add(b.mul(ratio, ratio), 1.0))))
    return b.where(infinite, math.inf, found)


_ERFINV = (
    (2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087, -0.00125372503, -0.00417768164,
     0.246640727, 1.50140941),
    (-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773, -0.0076224613, 0.00943887047,
     1.00167406, 2.83297682),
)  # fmt: skip
"""Coefficients near and far of the middle, relative error below 4e-7 (Giles, Approximating the erfinv function, 2010)."""


@lower(aten.erfinv.default, torch.ops.prims.erf_inv.default)
def erfinv(c: TorchLowering, self: Var) -> Var:
    """The inverse of the error function; infinite at -1 and 1."""
    b, a = c.b, c.b.cast(self, c.specs[0][1])
    w = b.unary("Neg", b.unary("Log", b.mul(b.sub(1.0, a), b.add(a, 1.0))))
    near = b.compare("Less", w, 5.0)
    shifted = (b.sub(w, 2.5), b.sub(b.unary("Sqrt", b.op("Max", [w, b.scalar_for(0.0, w)], w.shape)), 3.0))
    series = []
    for x, coefficients in zip(shifted, _ERFINV, strict=True):
        found: Var | float = coefficients[0]
        for number in coefficients[1:]:
            found = b.add(b.mul(x, found), number)
        series.append(found)
    inner = b.mul(b.where(near, *series), a)
    edge = b.compare("Equal", b.unary("Abs", a), 1.0)
    return b.where(edge, b.mul(a, math.inf), inner)


@lower(aten.trunc.default)
def trunc(c: TorchLowering, self: Var) -> Var:
    """Rounded towards zero."""
    if self.dtype not in FLOATS:
        return self
    b = c.b
    return b.where(b.compare("Less", self, 0.0), b.unary("Ceil", self), b.unary("Floor", self))


@lower(aten.isinf.default)
def isinf(c: TorchLowering, self: Var) -> Var:
    """Whether infinite; integers never are."""
    if self.dtype not in FLOATS:
        return c.value(c.uniform(False))
    return c.b.op("IsInf", [self], self.shape, TensorProto.BOOL)


def _pair(c: TorchLowering, self: Any, other: Any) -> tuple[Var, Var]:
    """Both operands as tensors of the result's type."""
    shape, dtype = c.specs[0]
    like = Var("", shape, dtype)
    listed = []
    for given in (self, other):
        number = c.number(given)
        listed.append(c.b.scalar_for(number, like) if number is not None else c.b.cast(c.value(given), dtype))
    return listed[0], listed[1]


def _modulo(c: TorchLowering, a: Var, d: Var) -> Var:
    """The remainder of truncating division, of the sign of `a`."""
    return c.b.op("Mod", [a, d], np.broadcast_shapes(a.shape, d.shape), fmod=1)


def _opposed(c: TorchLowering, rest: Var, d: Var) -> Var:
    """Where a remainder is not zero and has not the divisor's sign."""
    b = c.b
    signs = b.op("Xor", [b.compare("Less", rest, 0), b.compare("Less", d, 0)], np.broadcast_shapes(rest.shape, d.shape))
    return b.op("And", [signs, b.unary("Not", b.compare("Equal", rest, 0))], signs.shape)


@lower(aten.fmod.Tensor, aten.fmod.Scalar, raw=("self", "other"))
def fmod(c: TorchLowering, self: Any, other: Any) -> Var:
    """The remainder of truncating division."""
    return c.b.expand(_modulo(c, *_pair(c, self, other)), c.specs[0][0])


@lower(aten.remainder.Tensor, aten.remainder.Scalar, aten.remainder.Scalar_Tensor, raw=("self", "other"))
def remainder(c: TorchLowering, self: Any, other: Any) -> Var:
    """The remainder of flooring division, of the divisor's sign."""
    a, d = _pair(c, self, other)
    rest = _modulo(c, a, d)
    return c.b.expand(c.b.where(_opposed(c, rest, d), c.b.add(rest, d), rest), c.specs[0][0])


@lower(aten.div.Tensor_mode, aten.div.Scalar_mode, raw=("self", "other"))
def div_rounded(c: TorchLowering, self: Any, other: Any, rounding_mode: str | None = None) -> Var:
    """The quotient rounded towards zero or down; down as Python does, by way of the remainder."""
    b, (shape, dtype) = c.b, c.specs[0]
    a, d = _pair(c, self, other)
    if rounding_mode is None:
        return b.expand(b.div(a, d), shape)
    if rounding_mode == "trunc":
        quotient = b.div(a, d)
        return b.expand(trunc(c, quotient), shape)
    rest = _modulo(c, a, d)
    whole = b.div(b.sub(a, rest), d)
    lower_one = b.where(_opposed(c, rest, d), b.sub(whole, 1), whole)
    if dtype not in FLOATS:
        return b.expand(lower_one, shape)
    floor = b.unary("Floor", lower_one)
    near = b.where(b.compare("Greater", b.sub(lower_one, floor), 0.5), b.add(floor, 1.0), floor)
    return b.expand(b.where(b.compare("Equal", d, 0.0), b.div(a, d), near), shape)


@lower(aten.floor_divide.default, raw=("self", "other"))
def floor_divide(c: TorchLowering, self: Any, other: Any) -> Var:
    """The quotient rounded down."""
    return div_rounded(c, self, other, "floor")


@lower(aten.angle.default)
def angle(c: TorchLowering, self: Var) -> Var:
    """pi for negative numbers, else 0."""
    a = c.b.cast(self, c.specs[0][1])
    found = c.b.where(c.b.compare("Less", a, 0.0), c.b.scalar_for(math.pi, a), 0.0)
    return c.b.where(c.b.op("IsNaN", [a], a.shape, TensorProto.BOOL), a, found)


@lower(aten.round.decimals)
def round_decimals(c: TorchLowering, self: Var, decimals: int = 0) -> Var:
    """Rounded to so many decimal places, halves to even."""
    scale = 10.0 ** abs(decimals)
    forward, back = (c.b.mul, c.b.div) if decimals >= 0 else (c.b.div, c.b.mul)
    return back(c.b.unary("Round", forward(self, scale)), scale)
