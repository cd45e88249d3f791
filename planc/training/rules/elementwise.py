"""Gradients of element-wise operators: derivatives of elementary functions, from the output wherever it suffices."""

import math

from onnx import TensorProto

from planc.training.builder import Builder, Value
from planc.training.registry import ForwardNode, Gradients, Lowered, OutputGradients, gradient, lowering, sole


@gradient("Add", "Sum")
def add(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """d/da (a + b) = 1, summed over broadcast axes."""
    return {i: b.unbroadcast(sole(grads), node.input(i).shape) for i in sorted(node.wanted)}


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
    """d(ab) = b da + a db."""
    dy, (x, y) = sole(grads), (node.input(0), node.input(1))
    other = {0: y, 1: x}
    return {i: b.unbroadcast(b.mul(dy, other[i]), node.input(i).shape) for i in sorted(node.wanted)}


@gradient("Relu")
def relu(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """dx = dy where y > 0: from the output, so that the input need not be kept."""
    return {0: masked(b, b.compare("Greater", node.output, 0.0), sole(grads))}


def masked(b: Builder, mask: Value, dy: Value) -> Value:
    """dy where `mask`, else 0. Cast and Mul, because ONNX Runtime's Where needs scratch of twice its tensor."""
    return b.mul(dy, b.cast(mask, dy.dtype))


def _gelu_tanh_terms(b: Builder, x: Value) -> tuple[Value, Value]:
    """(x^2, sigmoid(2u)) with u = sqrt(2/pi) (x + 0.044715 x^3); (1 + tanh u) / 2 = sigmoid(2u)."""
    square = b.mul(x, x)
    slope = b.add(b.mul(square, 2 * _K * _CUBIC), 2 * _K)
    return square, b.unary("Sigmoid", b.mul(slope, x))


_K = math.sqrt(2 / math.pi)
_CUBIC = 0.044715


@lowering("Gelu")
def lower_gelu(b: Builder, node: ForwardNode) -> Lowered:
    """Hendrycks and Gimpel, Gaussian Error Linear Units (2016): x Phi(x), or its tanh approximation."""
    x, name = node.input(0), node.output.name
    if node.attribute("approximate", "none") == "tanh":
        b.mul(x, _gelu_tanh_terms(b, x)[1], name=name)
    else:
        b.mul(x, _normal_cdf(b, x), name=name)
    return Lowered()


def _normal_cdf(b: Builder, x: Value) -> Value:
    """Phi(x) = erf(x / sqrt 2) / 2 + 1/2."""
    return b.add(b.mul(b.unary("Erf", b.mul(x, math.sqrt(0.5))), 0.5), 0.5)


@gradient("Gelu")
def gelu(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """Exact: dy (Phi(x) + x phi(x)). Tanh form: with s = sigmoid(2u), dy s (1 + x (1 - s) 2u'). Both from x alone."""
    x, dy = node.input(0), sole(grads)
    if node.attribute("approximate", "none") == "tanh":
        square, s = _gelu_tanh_terms(b, x)
        slope = b.add(b.mul(square, 6 * _K * _CUBIC), 2 * _K)
        bracket = b.add(b.mul(b.mul(slope, x), b.sub(1.0, s)), 1.0)
        return {0: b.mul(b.mul(bracket, s), dy)}
    pdf = b.mul(b.unary("Exp", b.mul(b.mul(x, x), -0.5)), 1 / math.sqrt(2 * math.pi))
    return {0: b.mul(b.add(b.mul(pdf, x), _normal_cdf(b, x)), dy)}


@gradient("Cast")
def cast(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """The gradient in the input's type; conversions to integers have none (they are never active)."""
    return {0: b.cast(sole(grads), node.input(0).dtype)}


@gradient("Identity")
def identity(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """dx = dy."""
    return {0: sole(grads)}


FLOATS = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16})
