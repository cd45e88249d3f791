"""Norms over the rows of a tensor: layer-norm, RMS-norm, instance-norm."""

from onnx import TensorProto

from planc.kernels.group_norm import GROUP_NORM, GROUP_NORM_GRADIENT
from planc.kernels.layer_norm import LAYER_NORM, LAYER_NORM_GRADIENT, has_kernel
from planc.kernels.source import C_TYPES
from planc.training.emit.builder import Builder, Var
from planc.training.registry import ForwardNode, ForwardResult, Gradients, OutputGradients, forward_rule, gradient, sole
from planc.training.rules.reductions import leading_sum

_EPSILON = 1e-5


def _axis(node: ForwardNode) -> int:
    """The first axis of a row."""
    return int(node.attribute("axis", -1)) % node.input(0).rank


def _epsilon(node: ForwardNode) -> float:
    return float(node.attribute("epsilon", _EPSILON))


def _has_kernels(node: ForwardNode, centred: bool) -> bool:
    """Whether the device has kernels of planc's own for these rows, and nobody reads their statistics."""
    x, *vectors = (v for v in node.inputs if v is not None)
    row = x.shape[_axis(node) :]
    dtypes = {v.dtype for v in vectors}
    fits = x.size > 0 and len(dtypes) == 1 and all(v.shape == row for v in vectors)
    read = [x.dtype, node.output.dtype, *dtypes]
    known = has_kernel(vectors[0].size, read)
    served = node.table.kernels or (centred and all(node.table.computes(dtype) for dtype in read))
    return served and known and fits and not (node.has_output(1) or node.has_output(2))


def _by_kernel(b: Builder, node: ForwardNode, centred: bool) -> ForwardResult:
    x, y = node.input(0), node.output
    operands = [v for v in node.inputs if v is not None]
    to = y.dtype if y.dtype != x.dtype else 0
    _, statistics = b.kernel(LAYER_NORM, operands, [y.name], epsilon=_epsilon(node), centred=int(centred), to=to)
    return ForwardResult({"statistics": statistics})


def _gradient_by_kernel(b: Builder, node: ForwardNode, dy: Var, centred: bool) -> Gradients:
    operands = [dy, node.input(0), node.input(1), node.saved["statistics"]]
    made = b.kernel(LAYER_NORM_GRADIENT, operands, epsilon=_epsilon(node), centred=int(centred))
    return {position: v for position, v in enumerate(made) if position in node.wanted}


@forward_rule("LayerNormalization")
def lower_layer_norm(b: Builder, node: ForwardNode) -> ForwardResult | None:
    """planc's own operator where the device has it, which keeps the statistics too."""
    return _by_kernel(b, node, centred=True) if _has_kernels(node, centred=True) else None


@gradient("LayerNormalization")
def layer_norm(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """dx = inv (g - mean(g) - xhat mean(g xhat)) with g = dy scale (Ba, Kiros and Hinton, 2016).

    xhat and inv come from the operator itself run on x with unit scale: only x is kept, and it is one kernel.
    """
    if "statistics" in node.saved:
        return _gradient_by_kernel(b, node, sole(grads), centred=True)
    x, scale, dy = (b.wide(v) for v in (node.input(0), node.input(1), sole(grads)))
    axis = _axis(node)
    kept, found = x.rank - axis, {}
    xhat, inverse = _standardise(b, x, axis, _epsilon(node))
    if 1 in node.wanted:
        found[1] = _leading(b, node, b.mul(dy, xhat), kept, scale)
    if 2 in node.wanted:
        found[2] = _leading(b, node, dy, kept, node.input(2))
    if 0 in node.wanted:
        dx = _through(b, b.mul(dy, scale), xhat, inverse, list(range(axis, x.rank)))
        found[0] = b.cast(dx, node.input(0).dtype)
    return found


@forward_rule("RMSNormalization")
def lower_rms_norm(b: Builder, node: ForwardNode) -> ForwardResult:
    """planc's own operator where the device has it, else the standard ones it is made of (Zhang and Sennrich, 2019)."""
    if _has_kernels(node, centred=False):
        return _by_kernel(b, node, centred=False)
    xhat, _ = _rms_standardise(b, node)
    y = b.mul(xhat, b.wide(node.input(1)), name=node.output.name if xhat.dtype == node.output.dtype else None)
    if y.name != node.output.name:
        b.cast(y, node.output.dtype, name=node.output.name)
    return ForwardResult()


@gradient("RMSNormalization")
def rms_norm(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """dx = inv (g - xhat mean(g xhat)) with g = dy scale; xhat is computed anew, so that only x is kept."""
    if "statistics" in node.saved:
        return _gradient_by_kernel(b, node, sole(grads), centred=False)
    scale, dy = (b.wide(v) for v in (node.input(1), sole(grads)))
    xhat, inverse = _rms_standardise(b, node)
    axis, found = _axis(node), {}
    if 1 in node.wanted:
        found[1] = _leading(b, node, b.mul(dy, xhat), xhat.rank - axis, scale)
    if 0 in node.wanted:
        g = b.mul(dy, scale)
        along = b.mul(xhat, b.mean(b.mul(g, xhat), list(range(axis, xhat.rank))))
        found[0] = b.cast(b.mul(b.sub(g, along), inverse), node.input(0).dtype)
    return found


def _rms_standardise(b: Builder, node: ForwardNode) -> tuple[Var, Var]:
    """(x inv, inv) with inv = 1 / sqrt(mean x^2 + epsilon), in float32 at least."""
    x = b.wide(node.input(0))
    square = b.mean(b.mul(x, x), list(range(_axis(node), x.rank)))
    inverse = b.unary("Reciprocal", b.unary("Sqrt", b.add(square, _epsilon(node))))
    return b.mul(x, inverse), inverse


def _leading(b: Builder, node: ForwardNode, a: Var, kept: int, like: Var) -> Var:
    return b.unbroadcast(leading_sum(b, node.table, a, kept), like.shape)


def _standardise(b: Builder, x: Var, axis: int, epsilon: float) -> tuple[Var, Var]:
    """((x - mean) inv, inv) with the statistics over the axes from `axis` on."""
    statistics = (*x.shape[:axis], *[1] * (x.rank - axis))
    if x.dtype == TensorProto.DOUBLE:  # the operator's second and third output are float32 then
        axes = list(range(axis, x.rank))
        centred = b.sub(x, b.mean(x, axes))
        deviation = b.unary("Sqrt", b.add(b.mean(b.mul(centred, centred), axes), epsilon))
        inverse = b.unary("Reciprocal", deviation)
        return b.mul(centred, inverse), inverse
    unit = b.full(x.shape[axis:], 1.0, x.dtype)
    xhat, _, inverse = b.emit(
        "LayerNormalization", [x, unit], [(x.shape, x.dtype), (statistics, x.dtype), (statistics, x.dtype)],
        axis=axis, epsilon=epsilon,
    )  # fmt: skip
    return xhat, inverse


def _through(b: Builder, g: Var, xhat: Var, inverse: Var, axes: list[int]) -> Var:
    """The gradient of the standardised tensor carried to its input."""
    along = b.mul(xhat, b.mean(b.mul(g, xhat), axes))
    return b.mul(b.sub(b.sub(g, b.mean(g, axes)), along), inverse)


@forward_rule("InstanceNormalization")
def lower_instance_norm(b: Builder, node: ForwardNode) -> ForwardResult | None:
    """planc's own operator where the device has it, which keeps the statistics too."""
    x, scale, shift = (node.input(i) for i in range(3))
    if not (node.table.kernels and x.size and {x.dtype, scale.dtype} <= C_TYPES.keys() and shift.dtype == scale.dtype):
        return None
    operands, names = [x, scale, shift], [node.output.name]
    _, statistics = b.kernel(GROUP_NORM, operands, names, groups=x.shape[1], epsilon=_epsilon(node))
    return ForwardResult({"statistics": statistics})


@gradient("InstanceNormalization")
def instance_norm(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """Layer-norm over the positions of each (sample, channel), scaled per channel (Ulyanov et al., 2016)."""
    x, scale, dy = node.input(0), node.input(1), sole(grads)
    if "statistics" in node.saved:
        operands = [dy, x, scale, node.saved["statistics"]]
        made = b.kernel(GROUP_NORM_GRADIENT, operands, groups=x.shape[1], epsilon=_epsilon(node))
        return {position: v for position, v in enumerate(made) if position in node.wanted}
    rows = (*x.shape[:2], x.size // (x.shape[0] * x.shape[1]))
    xhat, inverse = _standardise(b, b.reshape(x, rows), 2, _epsilon(node))
    dy, found = b.reshape(dy, rows), {}
    if 1 in node.wanted:
        found[1] = b.reshape(b.sum(b.mul(dy, xhat), [0, 2]), scale.shape)
    if 2 in node.wanted:
        found[2] = b.reshape(b.sum(dy, [0, 2]), scale.shape)
    if 0 in node.wanted:
        g = b.mul(dy, b.reshape(scale, (1, x.shape[1], 1)))
        found[0] = b.reshape(_through(b, g, xhat, inverse, [2]), x.shape)
    return found
