"""Gradients of activation functions, from the output alone or the input alone: never both."""

import math

from onnx import TensorProto

from planc.kernels.gelu import CUBIC, GELU, GELU_GRADIENT, SLOPE
from planc.training.emit.builder import Builder, Var
from planc.training.registry import ForwardNode, ForwardResult, Gradients, OutputGradients, forward_rule, gradient, sole
from planc.training.rules.elementwise import masked


@gradient("Relu")
def relu(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """dx = dy where y > 0: from the output, so that the input need not be kept."""
    return {0: masked(b, b.compare("Greater", node.output, 0.0), sole(grads))}


@gradient("LeakyRelu")
def leaky_relu(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """dx = dy where y > 0, else alpha dy: from the output where alpha >= 0 (Maas et al., 2013)."""
    dy, alpha = sole(grads), float(node.attribute("alpha", 0.01))
    witness = node.output if alpha >= 0 else node.input(0)
    return {0: b.where(b.compare("Greater", witness, 0.0), dy, b.mul(dy, alpha))}


@gradient("PRelu")
def prelu(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """dx = dy where x > 0, else slope dy; dslope = sum of x dy where x <= 0 (He et al., 2015)."""
    x, slope, dy = node.input(0), node.input(1), sole(grads)
    positive, found = b.compare("Greater", x, 0.0), {}
    if 1 in node.wanted:
        found[1] = b.unbroadcast(b.where(positive, 0.0, b.mul(dy, x)), slope.shape)
    if 0 in node.wanted:
        found[0] = b.where(positive, dy, b.mul(dy, slope))
    return found


@gradient("Elu")
def elu(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """dx = dy where y > 0, else dy (y + alpha) (Clevert et al., 2016): from the output."""
    dy, y = sole(grads), node.output
    negative = b.mul(dy, b.add(y, float(node.attribute("alpha", 1.0))))
    return {0: b.where(b.compare("Greater", y, 0.0), dy, negative)}


@gradient("Sigmoid")
def sigmoid(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """dx = dy y (1 - y)."""
    y = node.output
    return {0: b.mul(b.mul(b.sub(1.0, y), y), sole(grads))}


@gradient("Tanh")
def tanh(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """dx = dy (1 - y^2)."""
    y = node.output
    return {0: b.mul(b.sub(1.0, b.mul(y, y)), sole(grads))}


@gradient("Softplus")
def softplus(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """dx = dy sigmoid(x)."""
    return {0: b.mul(b.unary("Sigmoid", node.input(0)), sole(grads))}


@gradient("HardSigmoid")
def hard_sigmoid(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """dx = alpha dy where 0 < y < 1: from the output."""
    y, dy = node.output, b.mul(sole(grads), float(node.attribute("alpha", 0.2)))
    inside = b.op("And", [b.compare("Greater", y, 0.0), b.compare("Less", y, 1.0)], y.shape)
    return {0: masked(b, inside, dy)}


@gradient("HardSwish")
def hard_swish(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """y = x clip(x/6 + 1/2, 0, 1); dx = dy (clip(...) + x/6 where |x| < 3) (Howard et al., 2019)."""
    x, dy = node.input(0), sole(grads)
    gate = b.unary("HardSigmoid", x, alpha=1 / 6, beta=0.5)
    inside = b.compare("Less", b.unary("Abs", x), 3.0)
    return {0: b.mul(b.add(masked(b, inside, b.mul(x, 1 / 6)), gate), dy)}


def _between_bounds(b: Builder, node: ForwardNode) -> Var | None:
    """Where the output of a Clip lies strictly between its bounds, None for a Clip without any."""
    mask: Var | None = None
    for position, comparison in ((1, "Greater"), (2, "Less")):
        if node.has_input(position):
            inside = b.compare(comparison, node.output, node.input(position))
            mask = inside if mask is None else b.op("And", [mask, inside], inside.shape)
    return mask


@forward_rule("Clip")
def lower_clip(b: Builder, node: ForwardNode) -> ForwardResult:
    """The operator as it is, and a mask of one byte an element, which is dropped where the gradient does not want it."""
    specs = [(node.output.shape, node.output.dtype)]
    b.emit("Clip", list(node.inputs), specs, [node.output.name], **node.attributes)
    mask = _between_bounds(b, node)
    return ForwardResult({"mask": mask} if mask else {})


@gradient("Clip")
def clip(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """dx = dy strictly between the bounds, 0 on and beyond them, as torch's ReLU6.

    From the output where a later layer keeps it anyway, as a convolution does its input; else from a mask of a quarter
    of its bytes.
    """
    dy = sole(grads)
    mask = _between_bounds(b, node) if b.kept_anyway(node.output) else node.saved.get("mask")
    return {0: dy if mask is None else masked(b, mask, dy)}


def _gelu_tanh_terms(b: Builder, x: Var) -> tuple[Var, Var]:
    """(x^2, sigmoid(2u)) with u = sqrt(2/pi) (x + 0.044715 x^3); (1 + tanh u) / 2 = sigmoid(2u)."""
    square = b.mul(x, x)
    slope = b.add(b.mul(square, CUBIC), SLOPE)
    return square, b.unary("Sigmoid", b.mul(slope, x))


@forward_rule("Gelu")
def lower_gelu(b: Builder, node: ForwardNode) -> ForwardResult:
    """Hendrycks and Gimpel, Gaussian Error Linear Units (2016): x Phi(x), or its tanh approximation."""
    x, name = node.input(0), node.output.name
    if _one_pass(node):
        b.kernel(GELU, [x], [name], tanh=int(_by_tanh(node)))
    elif _by_tanh(node):
        b.mul(x, _gelu_tanh_terms(b, x)[1], name=name)
    else:
        b.mul(x, _normal_cdf(b, x), name=name)
    return ForwardResult()


def _one_pass(node: ForwardNode) -> bool:
    """Whether planc's own operator computes it, in a pass."""
    x = node.input(0)
    return node.table.library and x.dtype == TensorProto.FLOAT and x.size > 0


def _by_tanh(node: ForwardNode) -> bool:
    return bool(node.attribute("approximate", "none") == "tanh")


def _normal_cdf(b: Builder, x: Var) -> Var:
    """Phi(x) = erf(x / sqrt 2) / 2 + 1/2."""
    return b.add(b.mul(b.unary("Erf", b.mul(x, math.sqrt(0.5))), 0.5), 0.5)


@gradient("Gelu")
def gelu(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """Exact: dy (Phi(x) + x phi(x)). Tanh form: with s = sigmoid(2u), dy s (1 + x (1 - s) 2u'). Both from x alone."""
    x, dy = node.input(0), sole(grads)
    if _one_pass(node):
        return {0: b.kernel(GELU_GRADIENT, [dy, x], tanh=int(_by_tanh(node)))[0]}
    if _by_tanh(node):
        square, s = _gelu_tanh_terms(b, x)
        slope = b.add(b.mul(square, 3 * CUBIC), SLOPE)
        bracket = b.add(b.mul(b.mul(slope, x), b.sub(1.0, s)), 1.0)
        return {0: b.mul(b.mul(bracket, s), dy)}
    pdf = b.mul(b.unary("Exp", b.mul(b.mul(x, x), -0.5)), 1 / math.sqrt(2 * math.pi))
    return {0: b.mul(b.add(b.mul(pdf, x), _normal_cdf(b, x)), dy)}
