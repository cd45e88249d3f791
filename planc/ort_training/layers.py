"""Handlers of layers and their com.microsoft gradients: activations, convolutions, pools, normalisation, losses.

Each gradient goes back to the forward operator it belongs to, so that it gets the library's own rule.
"""

import math
from typing import Any

from planc.ort_training.lowering import ArtifactLowering, Call, Results, lowers
from planc.training.apply import forward_node, gradients_of
from planc.training.emit.builder import Var
from planc.training.registry import ForwardNode
from planc.training.rules.likelihood import Labels, label_gradient, likelihood, likelihood_gradient, read_labels


def _gradients(c: ArtifactLowering, call: Call, node: ForwardNode, dy: Var, positions: dict[int, int]) -> Results:
    """The gradients of `node` by output of `call`: `positions` maps each output to an input of the forward operator."""
    wanted = {output: position for output, position in positions.items() if call.makes(output)}
    found = gradients_of(c.b, node, [dy], wanted.values())
    return [found.get(wanted[i]) if i in wanted else None for i in range(len(call.proto.output))]


def _from_output(c: ArtifactLowering, op_type: str, y: Var, dy: Var, **attributes: Any) -> list[Var]:
    """The gradient of an operator that needs its output alone."""
    node = forward_node(c.b, c.table, op_type, [None], [y], **attributes)
    return [gradients_of(c.b, node, [dy], [0])[0]]


def _from_input(c: ArtifactLowering, op_type: str, x: Var, dy: Var, **attributes: Any) -> list[Var]:
    """The gradient of an operator that needs its input alone."""
    node = forward_node(c.b, c.table, op_type, [x], [x], **attributes)
    return [gradients_of(c.b, node, [dy], [0])[0]]


# --- activations


@lowers("Relu")
def relu(c: ArtifactLowering, call: Call) -> Results:
    """Remembered by its input too, so that the gradient can be taken from the output."""
    x = c.value(call, 0)
    node = c.emit(call, "Relu", [x], [x.shape])
    c.forward[f"Relu of {call.name(0)}"] = node
    return [node.output]


@lowers("ReluGrad")
def relu_grad(c: ArtifactLowering, call: Call) -> Results:
    """(dY, X or Y): positive together, so the output serves."""
    known = c.forward.get(f"Relu of {call.name(1)}")
    return _from_output(c, "Relu", known.output if known else c.value(call, 1), c.value(call, 0))


@lowers("TanhGrad", "SigmoidGrad")
def from_output(c: ArtifactLowering, call: Call) -> Results:
    """(dY, Y)."""
    return _from_output(c, call.op_type.removesuffix("Grad"), c.value(call, 1), c.value(call, 0))


@lowers("SoftmaxGrad_13", "LogSoftmaxGrad_13")
def softmax_grad(c: ArtifactLowering, call: Call) -> Results:
    """(dY, Y), along one axis."""
    y, op_type = c.value(call, 1), call.op_type.removesuffix("Grad_13")
    return _from_output(c, op_type, y, c.value(call, 0), axis=call.attribute("axis", -1) % y.rank)


@lowers("SoftmaxGrad", "LogSoftmaxGrad")
def flat_softmax_grad(c: ArtifactLowering, call: Call) -> Results:
    """(dY, Y) of the operators before opset 13, which treat their input as a matrix cut at `axis`."""
    y, axis = c.value(call, 1), call.attribute("axis", 1)
    matrix = (math.prod(y.shape[: axis % y.rank]), math.prod(y.shape[axis % y.rank :]))
    flat = [c.view(v, matrix) for v in (y, c.value(call, 0))]
    return [c.view(_from_output(c, call.op_type.removesuffix("Grad"), *flat, axis=1)[0], y.shape)]


def _with_bias(c: ArtifactLowering, call: Call, position: int) -> Var:
    x = c.value(call, position)
    return c.b.add(x, c.value(call, position + 1)) if call.has(position + 1) else x


_APPROXIMATE = {"Gelu": "none", "BiasGelu": "none", "FastGelu": "tanh", "BiasFastGelu": "tanh"}


@lowers(*_APPROXIMATE)
def gelu(c: ArtifactLowering, call: Call) -> Results:
    """(X, bias): exact, or fast by tanh."""
    x = _with_bias(c, call, 0)
    default = _APPROXIMATE[call.op_type]
    return [c.emit(call, "Gelu", [x], [x.shape], approximate=call.attribute("approximate", default)).output]


@lowers("GeluGrad", "FastGeluGrad", "BiasGeluGrad_dX", "BiasFastGeluGrad_dX")
def gelu_grad(c: ArtifactLowering, call: Call) -> Results:
    """(dY, X, bias): from the input."""
    fast = "Fast" in call.op_type
    return _from_input(c, "Gelu", _with_bias(c, call, 1), c.value(call, 0), approximate="tanh" if fast else "none")


@lowers("QuickGelu")
def quick_gelu(c: ArtifactLowering, call: Call) -> Results:
    """x sigmoid(alpha x) (Hendrycks and Gimpel, 2016)."""
    x, alpha = c.value(call, 0), float(call.attribute("alpha", 1.702))
    return [c.b.mul(x, c.b.unary("Sigmoid", c.b.mul(x, alpha)))]


@lowers("QuickGeluGrad")
def quick_gelu_grad(c: ArtifactLowering, call: Call) -> Results:
    """dx = dy s (1 + alpha x (1 - s)) with s = sigmoid(alpha x)."""
    dy, x, alpha, b = c.value(call, 0), c.value(call, 1), float(call.attribute("alpha", 1.702)), c.b
    u = b.mul(x, alpha)
    s = b.unary("Sigmoid", u)
    return [b.mul(b.mul(b.add(b.mul(u, b.sub(1.0, s)), 1.0), s), dy)]


@lowers("LeakyReluGrad")
def leaky_relu_grad(c: ArtifactLowering, call: Call) -> Results:
    """(dY, Y)."""
    alpha = float(call.attribute("alpha", 0.01))
    return _from_output(c, "LeakyRelu", c.value(call, 1), c.value(call, 0), alpha=alpha)


@lowers("DropoutGrad")
def dropout_grad(c: ArtifactLowering, call: Call) -> Results:
    """(dY, mask, ratio, training): by the mask of the forward operator."""
    return [gradients_of(c.b, c.forward_of(call, call.name(1)), [c.value(call, 0)], [0])[0]]


# --- convolutions, pools, normalisation


@lowers("ConvGrad", "ConvTransposeGrad")
def conv_grad(c: ArtifactLowering, call: Call) -> Results:
    """(dY, X, W) to (dX, dW, dB)."""
    dy, x, w = (c.value(call, i) for i in range(3))
    op_type = call.op_type.removesuffix("Grad")
    group = int(call.attribute("group", 1))
    channels = dy.shape[1]
    node = forward_node(
        c.b, c.table, op_type, [x, w, Var("", (channels,), w.dtype)], [dy], **{**call.attributes, "group": group}
    )
    return _gradients(c, call, node, dy, {0: 0, 1: 1, 2: 2})


@lowers("MaxPoolGrad")
def max_pool_grad(c: ArtifactLowering, call: Call) -> Results:
    """(dY, indices): the forward operator knows both where the maxima are and the input's shape."""
    return [gradients_of(c.b, c.forward_of(call, call.name(1)), [c.value(call, 0)], [0])[0]]


@lowers("AveragePool")
def average_pool(c: ArtifactLowering, call: Call) -> Results:
    """Remembered, because its gradient operator does not say the input's shape."""
    x = c.value(call, 0)
    ((shape, _),) = c.inferred(call)
    return [c.emit(call, "AveragePool", [x], [shape], **call.attributes).output]


@lowers("AveragePoolGrad")
def average_pool_grad(c: ArtifactLowering, call: Call) -> Results:
    """(dY): the forward operator is the one its name starts with."""
    forward = call.proto.name.partition("_Grad/")[0]
    return [gradients_of(c.b, c.forward_of(call, forward), [c.value(call, 0)], [0])[0]]


@lowers("BatchNormInternal", "BatchNormalization")
def batch_norm(c: ArtifactLowering, call: Call) -> Results:
    """(X, scale, B, running mean, running variance); the running statistics move with the biased variance."""
    inputs = [c.value(call, i) for i in range(5)]
    training = int(call.attribute("training_mode", int(call.op_type == "BatchNormInternal")))
    epsilon, momentum = float(call.attribute("epsilon", 1e-5)), float(call.attribute("momentum", 0.9))
    shapes = [inputs[0].shape, *([inputs[3].shape] * 2 if training and call.makes(1) and call.makes(2) else [])]
    names = [call.proto.output[0], *(f"{statistic.name}.next" for statistic in inputs[3:])]
    node = c.emit(
        call, "BatchNormalization", inputs, shapes, names, training_mode=training, epsilon=epsilon, momentum=momentum
    )
    return [node.output]


@lowers("BatchNormalizationGrad")
def batch_norm_grad(c: ArtifactLowering, call: Call) -> Results:
    """(dY, X, scale, mean, inverse deviation) to (dX, dscale, dB)."""
    return _gradients(c, call, c.forward_of(call, call.name(3)), c.value(call, 0), {0: 0, 1: 1, 2: 2})


@lowers("LayerNormalization")
def layer_norm(c: ArtifactLowering, call: Call) -> Results:
    """(X, scale, B) to (Y, mean, inverse deviation): its gradient computes the statistics anew."""
    inputs = [c.value(call, i) for i in range(len(call.proto.input)) if call.has(i)]
    axis, epsilon = int(call.attribute("axis", -1)), float(call.attribute("epsilon", 1e-5))
    return [c.emit(call, "LayerNormalization", inputs, [inputs[0].shape], axis=axis, epsilon=epsilon).output]


@lowers("LayerNormalizationGrad")
def layer_norm_grad(c: ArtifactLowering, call: Call) -> Results:
    """(dY, X, scale, mean, inverse deviation) to (dX, dscale, dB)."""
    return _gradients(c, call, c.forward_of(call, call.name(3)), c.value(call, 0), {0: 0, 1: 1, 2: 2})


# --- indexing


def _indexed(c: ArtifactLowering, call: Call, op_type: str, positions: tuple[int, int, int]) -> Results:
    """The gradient of Gather or GatherElements from (dY, shape, indices) at `positions`."""
    dy, indices = c.value(call, positions[0]), c.value(call, positions[2])
    source = Var("", tuple(int(d) for d in c.constant(call, positions[1])), dy.dtype)
    node = forward_node(c.b, c.table, op_type, [source, indices], [dy], axis=int(call.attribute("axis", 0)))
    return [gradients_of(c.b, node, [dy], [0])[0]]


@lowers("GatherGrad")
def gather_grad(c: ArtifactLowering, call: Call) -> Results:
    """(shape, indices, dY)."""
    return _indexed(c, call, "Gather", (2, 0, 1))


@lowers("GatherElementsGrad")
def gather_elements_grad(c: ArtifactLowering, call: Call) -> Results:
    """(dY, shape, indices)."""
    return _indexed(c, call, "GatherElements", (0, 1, 2))


@lowers("SliceGrad")
def slice_grad(c: ArtifactLowering, call: Call) -> Results:
    """(dY, shape, starts, ends, axes, steps)."""
    dy = c.value(call, 0)
    source = Var("", tuple(int(d) for d in c.constant(call, 1)), dy.dtype)
    limits = [c.b.ints(c.constant(call, i)) for i in range(2, len(call.proto.input)) if call.has(i)]
    node = forward_node(c.b, c.table, "Slice", [source, *limits], [dy])
    return [gradients_of(c.b, node, [dy], [0])[0]]


# --- cross-entropy


def _labels(c: ArtifactLowering, call: Call, logp: Var, position: int) -> Labels:
    """The labels at input `position`, followed by class weights and, for the internal operator, the ignored label.

    The standard operator has that as an attribute.
    """
    ignored = call.attribute("ignore_index", None)
    if "Internal" in call.op_type and call.has(position + 2):
        ignored = int(c.constant(call, position + 2))
    return read_labels(c.b, logp, c.value(call, position), ignored, c.optional(call, position + 1))


@lowers("SoftmaxCrossEntropyLoss", "SoftmaxCrossEntropyLossInternal")
def cross_entropy(c: ArtifactLowering, call: Call) -> Results:
    """(scores, labels, weights, ignored label) to (loss, log-probabilities)."""
    scores, labels = c.value(call, 0), c.value(call, 1)
    c.index_sizes.setdefault(labels.name, scores.shape[1])
    logp = c.b.unary("LogSoftmax", scores, axis=1)
    read = _labels(c, call, logp, 1)
    return [likelihood(c.b, c.table, logp, read, call.attribute("reduction", "mean")), logp]


@lowers("SoftmaxCrossEntropyLossGrad", "SoftmaxCrossEntropyLossInternalGrad")
def cross_entropy_grad(c: ArtifactLowering, call: Call) -> Results:
    """(dY, log-probabilities, labels, weights, ignored label)."""
    dy, logp = c.value(call, 0), c.value(call, 1)
    read = _labels(c, call, logp, 2)
    share = label_gradient(c.b, c.table, read, call.attribute("reduction", "mean"), dy)
    return [likelihood_gradient(c.b, logp, read.index, share)]
