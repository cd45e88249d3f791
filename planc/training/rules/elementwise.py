"""Gradients of element-wise arithmetic: derivatives of elementary functions, from the output where it suffices."""

import math
import zlib
from collections.abc import Callable
from functools import reduce

import numpy as np
from onnx import TensorProto

from planc.kernels.dropout import DROPOUT
from planc.training.emit.builder import HALVES, Builder, Var
from planc.training.registry import ForwardNode, ForwardResult, Gradients, OutputGradients, forward_rule, gradient, sole


@gradient("Add", "Sum")
def add(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """d/da (a + b) = 1, summed over broadcast axes."""
    return {i: b.unbroadcast(sole(grads), node.input(i).shape) for i in sorted(node.wanted)}


@gradient("Mean")
def mean(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """d mean(a, b, ...) = dy / count for each."""
    share = b.mul(sole(grads), 1 / len(node.inputs))
    return {i: b.unbroadcast(share, node.input(i).shape) for i in sorted(node.wanted)}


@gradient("Mod")
def modulo(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """d(a - d q) = da - q dd, with the whole number q = (a - y) / d of divisors in a."""
    dy, a, d, found = sole(grads), node.input(0), node.input(1), {}
    if 1 in node.wanted:
        quotient = b.unary("Round", b.div(b.sub(a, node.output), d))
        found[1] = b.unary("Neg", b.unbroadcast(b.mul(dy, quotient), d.shape))
    if 0 in node.wanted:
        found[0] = b.unbroadcast(dy, a.shape)
    return found


@gradient("Sub")
def sub(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """d(a - b) = da - db; the sign is applied after the sum over broadcast axes, on the smaller tensor."""
    dy, found = sole(grads), {}
    if 0 in node.wanted:
        found[0] = b.unbroadcast(dy, node.input(0).shape)
    if 1 in node.wanted:
        found[1] = b.unary("Neg", b.unbroadcast(dy, node.input(1).shape))
    return found


@gradient("Mul")
def mul(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """d(ab) = b da + a db; a square gives 2 a da at once."""
    dy, (x, y) = sole(grads), (node.input(0), node.input(1))
    if x == y:
        return {0: b.mul(b.mul(dy, x), 2.0)}
    other = {0: y, 1: x}
    return {i: b.unbroadcast(b.mul(dy, other[i]), node.input(i).shape) for i in sorted(node.wanted)}


def masked(b: Builder, mask: Var, dy: Var) -> Var:
    """dy where `mask`, else 0, whatever dy is there.

    By a product where dy is finite, because ONNX Runtime's Where needs scratch of twice its tensor.
    """
    if b.finite.may_be_infinite(dy.name):
        return b.where(mask, dy, 0.0)
    return b.mul(dy, b.cast(mask, dy.dtype))


@gradient("Div")
def div(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """d(x / y) = dx / y - (x / y) dy / y: the divisor's gradient from the output."""
    dy, divisor, found = sole(grads), node.input(1), {}
    quotient = b.div(dy, divisor)
    if 1 in node.wanted:
        found[1] = b.unary("Neg", b.unbroadcast(b.mul(quotient, node.output), divisor.shape))
    if 0 in node.wanted:
        found[0] = b.unbroadcast(quotient, node.input(0).shape)
    return found


@gradient("Pow")
def power(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """d(x^e) = e x^(e-1) dx + y log(x) de; the first is 0 where e is, the second where y is (as torch)."""
    dy, x, exponent, found = sole(grads), node.input(0), node.input(1), {}
    if 1 in node.wanted:
        slope = b.mul(b.mul(dy, node.output), b.unary("Log", x))
        zero = b.compare("Equal", node.output, 0.0)
        found[1] = b.unbroadcast(b.where(zero, 0.0, slope), exponent.shape)
    if 0 in node.wanted:
        found[0] = b.unbroadcast(_power_gradient(b, x, exponent, dy), x.shape)
    return found


def _power_gradient(b: Builder, x: Var, exponent: Var, dy: Var) -> Var:
    known = b.known_scalar(exponent)
    if known == 0.0:
        return b.zeros(dy.shape, dy.dtype)
    if known is not None:
        return dy if known == 1.0 else b.mul(b.mul(x if known == 2.0 else b.pow(x, known - 1), known), dy)
    exponent = b.cast(exponent, x.dtype)
    power = b.op("Pow", [x, b.sub(exponent, 1.0)], np.broadcast_shapes(x.shape, exponent.shape))
    return b.where(b.compare("Equal", exponent, 0.0), 0.0, b.mul(b.mul(power, exponent), dy))


def _square(b: Builder, x: Var) -> Var:
    return b.mul(x, x)


def _reciprocal_root(b: Builder, x: Var) -> Var:
    return b.unary("Reciprocal", b.unary("Sqrt", x))


def _from_input(op_type: str, derivative: Callable[[Builder, Var], Var]) -> None:
    """Register dx = dy f'(x)."""

    def rule(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
        return {0: b.mul(derivative(b, node.input(0)), sole(grads))}

    gradient(op_type)(rule)


_from_input("Abs", lambda b, x: b.unary("Sign", x))
_from_input("Sin", lambda b, x: b.unary("Cos", x))
_from_input("Cos", lambda b, x: b.unary("Neg", b.unary("Sin", x)))
_from_input("Tan", lambda b, x: b.add(_square(b, b.unary("Tan", x)), 1.0))
_from_input("Sinh", lambda b, x: b.unary("Cosh", x))
_from_input("Cosh", lambda b, x: b.unary("Sinh", x))
_from_input("Atan", lambda b, x: b.unary("Reciprocal", b.add(_square(b, x), 1.0)))
_from_input("Asin", lambda b, x: _reciprocal_root(b, b.sub(1.0, _square(b, x))))
_from_input("Acos", lambda b, x: b.unary("Neg", _reciprocal_root(b, b.sub(1.0, _square(b, x)))))
_from_input("Asinh", lambda b, x: _reciprocal_root(b, b.add(_square(b, x), 1.0)))
_from_input("Acosh", lambda b, x: _reciprocal_root(b, b.sub(_square(b, x), 1.0)))
_from_input("Atanh", lambda b, x: b.unary("Reciprocal", b.sub(1.0, _square(b, x))))
_from_input("Erf", lambda b, x: b.mul(b.unary("Exp", b.unary("Neg", b.mul(x, x))), 2 / math.sqrt(math.pi)))


@gradient("Neg")
def neg(b: Builder, _node: ForwardNode, grads: OutputGradients) -> Gradients:
    """dx = -dy."""
    return {0: b.unary("Neg", sole(grads))}


@gradient("Exp")
def exp(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """dx = dy y."""
    return {0: b.mul(sole(grads), node.output)}


@gradient("Log")
def log(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """dx = dy / x."""
    return {0: b.div(sole(grads), node.input(0))}


@gradient("Sqrt")
def sqrt(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """dx = dy / (2 y)."""
    return {0: b.div(b.mul(sole(grads), 0.5), node.output)}


@gradient("Reciprocal")
def reciprocal(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """dx = -dy y^2."""
    y = node.output
    return {0: b.unary("Neg", b.mul(b.mul(y, y), sole(grads)))}


@gradient("Max", "Min")
def extremum(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """The gradient goes to the inputs that equal the output, shared equally between those that tie, as torch does."""
    dy, y = sole(grads), node.output
    inputs = [v for v in node.inputs if v is not None]
    equal = [b.cast(b.compare("Equal", v, y), dy.dtype) for v in inputs]
    ties = reduce(b.add, equal)
    share = b.div(dy, b.op("Max", [ties, b.scalar_for(1.0, ties)], ties.shape)) if len(inputs) > 1 else dy
    return {
        i: b.unbroadcast(masked(b, b.compare("Equal", node.input(i), y), share), node.input(i).shape)
        for i in sorted(node.wanted)
    }


@gradient("Where")
def where(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """Each branch gets dy where it was taken."""
    dy, condition, found = sole(grads), node.input(0), {}
    if 1 in node.wanted:
        found[1] = b.unbroadcast(b.where(condition, dy, 0.0), node.input(1).shape)
    if 2 in node.wanted:
        found[2] = b.unbroadcast(b.where(condition, 0.0, dy), node.input(2).shape)
    return found


@forward_rule("Dropout")
def lower_dropout(b: Builder, node: ForwardNode) -> ForwardResult:
    """Training mode: planc's own operator, which keeps nothing, or the standard one with its one-byte mask and a fixed
    seed; else the identity (Srivastava, 2014)."""
    y = node.output
    training = node.constant(2)
    if training is None or not bool(training):
        b.emit("Dropout", list(node.inputs[:2]), [(y.shape, y.dtype)], [y.name])
        return ForwardResult()
    if node.table.kernels and not node.has_output(1) and y.dtype in (*HALVES, TensorProto.FLOAT):
        key = b.random_key()
        b.kernel(DROPOUT, [node.input(0), key], names=[y.name], ratio=_ratio(node), stream=_stream(node))
        return ForwardResult({"key": key})
    mask_name = node.outputs[1].name if node.has_output(1) and node.outputs[1] else None
    seed = int(node.attribute("seed", zlib.crc32(node.proto.name.encode()) & 0x7FFFFFFF))
    _, mask = b.emit(
        "Dropout", list(node.inputs[:3]), [(y.shape, y.dtype), (y.shape, TensorProto.BOOL)], [y.name, mask_name],
        seed=seed,
    )  # fmt: skip
    return ForwardResult({"mask": mask})


@gradient("Dropout")
def dropout(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """dx = dy mask / (1 - ratio)."""
    dy = sole(grads)
    if "key" in node.saved:
        return {0: b.kernel(DROPOUT, [dy, node.saved["key"]], ratio=_ratio(node), stream=_stream(node))[0]}
    if "mask" not in node.saved:
        return {0: dy}
    return {0: b.mul(masked(b, node.saved["mask"], dy), 1 / (1 - _ratio(node)))}


def _ratio(node: ForwardNode) -> float:
    ratio = node.constant(1)
    return 0.5 if ratio is None else float(ratio)


def _stream(node: ForwardNode) -> int:
    """Where among all numbers of a seed and a step the node's are."""
    return int(node.attribute("seed", zlib.crc32(node.proto.name.encode()))) & 0xFFFFFFFF


@gradient("Cast")
def cast(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """The gradient in the input's type; conversions to integers have none (they are never active)."""
    return {0: b.cast(sole(grads), node.input(0).dtype)}


@gradient("Ceil", "Floor", "Round", "Sign", "Hardmax", "EyeLike", "RandomNormalLike", "RandomUniformLike")
def flat(b: Builder, node: ForwardNode, _grads: OutputGradients) -> Gradients:
    """0: steps are flat, as torch has it, and of some inputs nothing but the shape is read."""
    return {i: b.zeros(node.input(i).shape, node.input(i).dtype) for i in sorted(node.wanted)}


@gradient("Identity")
def identity(_b: Builder, _node: ForwardNode, grads: OutputGradients) -> Gradients:
    """dx = dy."""
    return {0: sole(grads)}
