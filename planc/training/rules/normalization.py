"""Batch-norm, local response normalisation, softmax; norms over rows are in `row_norms`."""

from functools import partial

from onnx import TensorProto

from planc.kernels.batch_norm import BATCH_NORM, BATCH_NORM_GRADIENT
from planc.kernels.source import C_TYPES
from planc.training.emit.builder import Builder, Var
from planc.training.ranks import of_all_ranks
from planc.training.registry import ForwardNode, ForwardResult, Gradients, OutputGradients, forward_rule, gradient, sole
from planc.training.rules.reductions import channel_mean, channel_sum


@forward_rule("BatchNormalization")
def lower_batch_norm(b: Builder, node: ForwardNode) -> ForwardResult:
    """Training mode (Ioffe and Szegedy, 2015): batch mean and variance, then the inference operator fed with them.

    The CUDA provider refuses training_mode=1. The running statistics move by the ONNX definition, with the biased
    variance, in an update group of their own: the forward layer can be recomputed without touching state.
    """
    x, scale, shift = (node.input(i) for i in range(3))
    epsilon, y = float(node.attribute("epsilon", 1e-5)), node.output
    if _has_kernels(node, x):
        vectors = [b.cast(v, TensorProto.FLOAT) for v in (scale, shift)]
        _, mean, variance = b.kernel(BATCH_NORM, [x, *vectors], [y.name], epsilon=epsilon)
        update = partial(_running_statistics, node=node, batch=(mean, variance)) if node.has_output(1) else None
        return ForwardResult({"mean": mean, "variance": variance}, update)
    x = b.wide(x)
    if not node.attribute("training_mode", 0):
        _normalise(b, [x, *node.inputs[1:]], y, epsilon)
        return ForwardResult()
    mean = channel_mean(b, node.table, x)
    centred = b.sub(x, mean)
    variance = channel_mean(b, node.table, b.mul(centred, centred))
    flat = [b.reshape(v, (x.shape[1],)) for v in (mean, variance)]
    _normalise(b, [x, scale, shift, *flat], y, epsilon)
    update = partial(_running_statistics, node=node, batch=(flat[0], flat[1])) if node.has_output(1) else None
    return ForwardResult({"mean": flat[0], "variance": flat[1]}, update)


def _normalise(b: Builder, inputs: list[Var | None], y: Var, epsilon: float) -> None:
    """The inference operator from float32 inputs to `y`, narrowed where the model's activations are."""
    x = inputs[0]
    if x is None or x.dtype == y.dtype:
        b.op("BatchNormalization", inputs, y.shape, name=y.name, epsilon=epsilon)
    else:
        b.cast(b.op("BatchNormalization", inputs, y.shape, epsilon=epsilon), y.dtype, name=y.name)


def _running_statistics(b: Builder, node: ForwardNode, batch: tuple[Var, Var]) -> dict[str, Var]:
    """running = momentum * running + (1 - momentum) * batch, for the mean and the variance, rank by rank."""
    momentum, moved = float(node.attribute("momentum", 0.9)), {}
    for position, statistic in ((1, batch[0]), (2, batch[1])):
        running, following = node.input(position + 2), node.outputs[position]
        if following is not None:
            parts = of_all_ranks(b, statistic)
            for turn, part in enumerate(parts, 1 - len(parts)):
                share = b.cast(b.mul(part, 1 - momentum), running.dtype)
                running = b.add(b.mul(running, momentum), share, name=following.name if turn == 0 else None)
            moved[node.input(position + 2).name] = running
    return moved


@gradient("BatchNormalization")
def batch_norm(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """With centred = x - mean, inv = 1 / sqrt(variance + epsilon) and m values a channel (Ioffe and Szegedy, 2015):

    dshift = sum dy, dscale = inv sum(dy centred),
    dx = scale inv (dy - dshift / m - centred inv dscale / m); frozen statistics: dx = scale inv dy.
    Kept: x and two vectors.
    """
    if "mean" in node.saved and _has_kernels(node, node.input(0)):
        return _batch_norm_by_kernel(b, node, sole(grads))
    x, scale, dy = b.wide(node.input(0)), node.input(1), b.wide(sole(grads))
    column, training = (1, x.shape[1], *[1] * (x.rank - 2)), "mean" in node.saved
    mean = b.reshape(node.saved["mean"] if training else node.input(3), column)
    variance = b.reshape(node.saved["variance"] if training else node.input(4), column)
    epsilon = float(node.attribute("epsilon", 1e-5))
    inverse = b.unary("Reciprocal", b.unary("Sqrt", b.add(variance, epsilon)))
    gain = b.mul(b.reshape(scale, column), inverse)
    if not training and not node.wanted & {1, 2}:
        return {0: b.cast(b.mul(dy, gain), node.input(0).dtype)}
    centred = b.sub(x, mean)
    dshift = channel_sum(b, node.table, dy)
    dscale = b.mul(channel_sum(b, node.table, b.mul(dy, centred)), inverse)
    found = {1: b.reshape(dscale, scale.shape), 2: b.reshape(dshift, scale.shape)}
    found = {i: v for i, v in found.items() if i in node.wanted}
    if 0 in node.wanted:
        if training:
            share = x.shape[1] / x.size
            slope = b.mul(b.mul(dscale, inverse), share)
            dy = b.sub(dy, b.mul(centred, slope))
        if training and node.table.batch_norm == "operator":
            flat = [b.reshape(v, scale.shape) for v in (b.mul(dshift, share), variance)]
            inputs = [dy, scale, b.full(scale.shape, 0.0, x.dtype), *flat]
            dx = b.op("BatchNormalization", inputs, x.shape, epsilon=epsilon)
        else:
            dx = b.mul(b.sub(dy, b.mul(dshift, share)) if training else dy, gain)
        found[0] = b.cast(dx, node.input(0).dtype)
    return found


def _has_kernels(node: ForwardNode, x: Var) -> bool:
    """Whether the device has kernels of planc's own for a batch-norm in training of X [N, C, ...]."""
    known = node.table.computes(x.dtype) and x.dtype in C_TYPES
    return known and bool(node.attribute("training_mode", 0)) and x.rank > 1


def _batch_norm_by_kernel(b: Builder, node: ForwardNode, dy: Var) -> Gradients:
    x, epsilon = node.input(0), float(node.attribute("epsilon", 1e-5))
    vectors = [b.cast(v, TensorProto.FLOAT) for v in (node.input(1), node.input(2))]
    statistics = [node.saved["mean"], node.saved["variance"]]
    made = b.kernel(BATCH_NORM_GRADIENT, [dy, x, *vectors, *statistics], epsilon=epsilon)
    return {position: v for position, v in enumerate(made) if position in node.wanted}


@gradient("LRN")
def local_response_norm(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """y = x D^-beta, D = bias + alpha / size * (sum of x^2 over a window of channels) (Krizhevsky et al., 2012):

    dx = dy D^-beta - 2 alpha beta / size * x * (transposed window sum of dy x D^(-beta - 1)). From x alone.
    """
    x, dy, size = node.input(0), sole(grads), int(node.attribute("size", 1))
    alpha, beta = float(node.attribute("alpha", 1e-4)), float(node.attribute("beta", 0.75))
    below, above = (size - 1) // 2, size // 2
    window = b.mul(_channel_mean(b, b.mul(x, x), size, below, above), alpha)
    scale = b.add(window, float(node.attribute("bias", 1.0)))
    direct = b.div(dy, _power(b, scale, beta))
    spread = _channel_mean(b, b.mul(b.div(direct, scale), x), size, above, below)
    return {0: b.sub(direct, b.mul(b.mul(spread, 2 * alpha * beta), x))}


def _power(b: Builder, a: Var, exponent: float) -> Var:
    """a ** exponent; by roots for the usual 3/4, since Pow takes six times as long on the CPU."""
    if exponent != 0.75:
        return b.pow(a, exponent)
    root = b.unary("Sqrt", a)
    return b.mul(root, b.unary("Sqrt", root))


def _channel_mean(b: Builder, a: Var, size: int, below: int, above: int) -> Var:
    """The sum over channels [c - below, c + above] divided by `size`, of [N, C, ...]."""
    image = b.reshape(a, (a.shape[0], 1, a.shape[1], a.size // (a.shape[0] * a.shape[1])))
    pooled = b.op(
        "AveragePool", [image], image.shape,
        kernel_shape=[size, 1], strides=[1, 1], pads=[below, 0, above, 0], count_include_pad=1,
    )  # fmt: skip
    return b.reshape(pooled, a.shape)


@gradient("Softmax")
def softmax(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """dx = y (dy - sum(dy y)) along the axis: from the output.

    Where y was multiplied by a narrow matrix, as in attention, the sum is that of the product's gradient times the
    product (Dao et al., FlashAttention, 2022, equation 4).
    """
    y, dy = node.output, sole(grads)
    axis = int(node.attribute("axis", -1)) % y.rank
    factors = b.inner_products.get(dy.name) if axis == y.rank - 1 else None
    inner = b.sum(b.mul(*(factors or (dy, y))), [axis])
    return {0: b.mul(b.sub(dy, inner), y)}


@gradient("LogSoftmax")
def log_softmax(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """dx = dy - exp(y) sum(dy) along the axis: from the output."""
    y, dy = node.output, sole(grads)
    return {0: b.sub(dy, b.mul(b.unary("Exp", y), b.sum(dy, [int(node.attribute("axis", -1))])))}
