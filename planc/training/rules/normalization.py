"""Normalisation layers: training-mode batch-norm, layer-norm, softmax."""

from functools import partial

from planc.training.builder import Builder, Value
from planc.training.registry import ForwardNode, Gradients, Lowered, OutputGradients, gradient, lowering, sole
from planc.training.rules.reductions import channel_mean, channel_sum, leading_sum


@lowering("BatchNormalization")
def lower_batch_norm(b: Builder, node: ForwardNode) -> Lowered:
    """Training mode (Ioffe and Szegedy, 2015): batch mean and variance, then the inference operator fed with them.

    The CUDA provider refuses training_mode=1. The running statistics move by the ONNX definition, with the biased
    variance, in an update group of their own: the forward layer can be recomputed without touching state.
    """
    x, scale, shift = (node.input(i) for i in range(3))
    epsilon, y = float(node.attribute("epsilon", 1e-5)), node.output
    if not node.attribute("training_mode", 0):
        b.op("BatchNormalization", list(node.inputs), y.shape, name=y.name, epsilon=epsilon)
        return Lowered()
    mean = channel_mean(b, node.table, x)
    centred = b.sub(x, mean)
    variance = channel_mean(b, node.table, b.mul(centred, centred))
    flat = [b.reshape(v, (x.shape[1],)) for v in (mean, variance)]
    b.op("BatchNormalization", [x, scale, shift, *flat], y.shape, name=y.name, epsilon=epsilon)
    update = partial(_running_statistics, node=node, batch=(flat[0], flat[1])) if node.has_output(1) else None
    return Lowered({"mean": flat[0], "variance": flat[1]}, update)


def _running_statistics(b: Builder, node: ForwardNode, batch: tuple[Value, Value]) -> dict[str, Value]:
    """running = momentum * running + (1 - momentum) * batch, for the mean and the variance."""
    momentum, moved = float(node.attribute("momentum", 0.9)), {}
    for position, statistic in ((1, batch[0]), (2, batch[1])):
        running, following = node.input(position + 2), node.outputs[position]
        if following is not None:
            kept = b.mul(running, momentum)
            moved[running.name] = b.add(kept, b.mul(statistic, 1 - momentum), name=following.name)
    return moved


@gradient("BatchNormalization")
def batch_norm(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """dx = A dy + B x + C per channel, with inv = 1 / sqrt(var + eps), m values a channel:

    dshift = sum dy, dscale = inv sum dy (x - mean), A = scale inv, B = -A inv dscale / m, C = -A dshift / m - B mean
    (Ioffe and Szegedy, 2015, section 3, collected per channel). With frozen statistics B = C = 0.
    """
    x, scale, dy = node.input(0), node.input(1), sole(grads)
    column = (1, x.shape[1], *[1] * (x.rank - 2))
    training = "mean" in node.saved
    mean = b.reshape(node.saved["mean"] if training else node.input(3), column)
    variance = b.reshape(node.saved["variance"] if training else node.input(4), column)
    epsilon = float(node.attribute("epsilon", 1e-5))
    inverse = b.unary("Reciprocal", b.unary("Sqrt", b.add(variance, epsilon)))
    gain = b.mul(b.reshape(scale, column), inverse)
    dshift = dscale = None
    if training or node.wanted & {1, 2}:
        dshift = channel_sum(b, node.table, dy)
        dscale = b.mul(channel_sum(b, node.table, b.mul(dy, b.sub(x, mean))), inverse)
    found = {}
    if dshift is not None and dscale is not None:
        found = {1: b.reshape(dscale, scale.shape), 2: b.reshape(dshift, scale.shape)}
        found = {i: v for i, v in found.items() if i in node.wanted}
    if 0 in node.wanted:
        dx = b.mul(dy, gain)
        if training and dshift is not None and dscale is not None:
            share = 1 / (x.size // x.shape[1])
            slope = b.mul(b.mul(b.mul(gain, inverse), dscale), -share)
            offset = b.add(b.mul(b.mul(gain, dshift), share), b.mul(slope, mean))
            dx = b.sub(b.add(dx, b.mul(x, slope)), offset)
        found[0] = dx
    return found


@gradient("LayerNormalization")
def layer_norm(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """dx = inv (g - mean(g) - xhat mean(g xhat)) with g = dy scale (Ba, Kiros and Hinton, 2016).

    xhat and inv come from the operator itself run on x with unit scale: only x is kept, and it is one kernel.
    """
    x, scale, dy = node.input(0), node.input(1), sole(grads)
    axis = int(node.attribute("axis", -1)) % x.rank
    axes, kept = list(range(axis, x.rank)), x.rank - axis
    statistics = (*x.shape[:axis], *[1] * kept)
    unit = b.full(scale.shape, 1.0, scale.dtype)
    xhat, _, inverse = b.emit(
        "LayerNormalization", [x, unit], [(x.shape, x.dtype), (statistics, x.dtype), (statistics, x.dtype)],
        axis=axis, epsilon=float(node.attribute("epsilon", 1e-5)),
    )  # fmt: skip
    found = {}
    if 1 in node.wanted:
        found[1] = b.reshape(leading_sum(b, node.table, b.mul(dy, xhat), kept), scale.shape)
    if 2 in node.wanted:
        found[2] = b.reshape(leading_sum(b, node.table, dy, kept), scale.shape)
    if 0 in node.wanted:
        g = b.mul(dy, scale)
        along = b.mul(xhat, b.mean(b.mul(g, xhat), axes))
        found[0] = b.mul(b.sub(b.sub(g, b.mean(g, axes)), along), inverse)
    return found


@gradient("Softmax")
def softmax(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """dx = y (dy - sum(dy y)) along the axis: from the output."""
    y, dy = node.output, sole(grads)
    inner = b.sum(b.mul(dy, y), [int(node.attribute("axis", -1))])
    return {0: b.mul(b.sub(dy, inner), y)}


@gradient("LogSoftmax")
def log_softmax(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """dx = dy - exp(y) sum(dy) along the axis: from the output."""
    y, dy = node.output, sole(grads)
    return {0: b.sub(dy, b.mul(b.unary("Exp", y), b.sum(dy, [int(node.attribute("axis", -1))])))}
