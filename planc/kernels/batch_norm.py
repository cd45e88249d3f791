"""Batch-norm in training (Ioffe and Szegedy, 2015), with the ReLU or the addition and ReLU behind it: three launches over
two passes, forward and backward.

X [N, C, ...], or [N, ..., C] with `channels_last`, which the kernels are for; scale, bias, mean and the biased variance [C]
are float32 whatever X is. Kept for the gradient: X and the two vectors, and Y where something was added before the ReLU.
"""

from collections.abc import Mapping, Sequence
from functools import partial

from onnx import TensorProto

from planc.kernels.body import Body
from planc.kernels.channels import THREADS, Tiling
from planc.kernels.convolution import to_first
from planc.kernels.device import WORKSPACE, BatchNormKernel, Buffer, Launch, SourceKernel, Strided
from planc.kernels.operator import Attribute, Call, Operator, TensorType, register
from planc.kernels.source import C_TYPES, VECTOR_BYTES

_ATTRIBUTES: Mapping[str, Attribute] = {"epsilon": 1e-5, "relu": 0, "channels_last": 0}


def _axes(call: Call, rank: int) -> tuple[int, list[int]]:
    """The channels' axis and the others."""
    axis = rank - 1 if call.whole("channels_last") else 1
    return axis, [i for i in range(rank) if i != axis]


def _channels(call: Call, x: TensorType, vectors: Sequence[TensorType]) -> TensorType:
    """The type of a vector of channels, which all `vectors` must have."""
    if len(x.shape) < 2 or x.dtype not in C_TYPES:
        raise call.refuse("a float32, float16 or bfloat16 tensor [N, C, ...] first")
    expected = TensorType(TensorProto.FLOAT, (x.shape[_axes(call, len(x.shape))[0]],))
    if any(v != expected for v in vectors):
        raise call.refuse(f"float32 vectors of {expected.shape[0]} channels")
    return expected


# --- forward


def _forward_types(call: Call) -> tuple[TensorType, ...]:
    x, scale, bias, *residual = call.inputs
    vector = _channels(call, x, (scale, bias))
    if any(r != x for r in residual):
        raise call.refuse("a residual of the type of x")
    return x, vector, vector


def _column(body: Body, call: Call, vector: str, rank: int) -> str:
    """A vector of channels as it broadcasts against X."""
    axis, _ = _axes(call, rank)
    return body.reshape(vector, [-1 if i == axis else 1 for i in range(rank)])


def _inverse(body: Body, variance: str, epsilon: float) -> str:
    return body.op("Reciprocal", body.op("Sqrt", body.op("Add", variance, body.number(epsilon))))


def _normalised(body: Body, call: Call, x: str, mean: str, gain: str, bias: str, rank: int) -> str:
    centred = body.op("Sub", x, _column(body, call, mean, rank))
    return body.op("Add", body.op("Mul", centred, _column(body, call, gain, rank)), _column(body, call, bias, rank))


def _forward(call: Call, body: Body) -> Sequence[str]:
    dtype, rank = call.inputs[0].dtype, len(call.inputs[0].shape)
    x, (scale, bias), residual = body.wide(body.inputs[0], dtype), body.inputs[1:3], body.inputs[3:]
    _, others = _axes(call, rank)
    mean = body.mean(x, others)
    centred = body.op("Sub", x, mean)
    variance = body.reshape(body.mean(body.op("Mul", centred, centred), others), [-1])
    flat = body.reshape(mean, [-1])
    gain = body.op("Mul", _inverse(body, variance, call.real("epsilon")), scale)
    y = _normalised(body, call, x, flat, gain, bias, rank)
    for name in residual:
        y = body.op("Add", y, body.wide(name, dtype))
    y = body.op("Relu", y) if call.whole("relu") else y
    return [body.narrow(y, dtype), flat, variance]


# --- gradient


def _gradient_types(call: Call) -> tuple[TensorType, ...]:
    dy, x, scale, bias, mean, variance, *y = call.inputs
    vector = _channels(call, x, (scale, bias, mean, variance))
    if any(t != x for t in (dy, *y)) or (y and not call.whole("relu")):
        raise call.refuse("dy and y of the type of x, and y only behind a ReLU")
    return x, vector, vector, *(x for _ in y)


def _gradient(call: Call, body: Body) -> Sequence[str]:
    """dbias = sum dy, dscale = sum dy xhat, dx = gain (dy - dbias / m - xhat dscale / m), dy masked by the ReLU."""
    dtype, rank = call.inputs[1].dtype, len(call.inputs[1].shape)
    dy, x = (body.wide(name, dtype) for name in body.inputs[:2])
    scale, bias, mean, variance, *y = body.inputs[2:]
    axis, others = _axes(call, rank)
    inverse = _inverse(body, variance, call.real("epsilon"))
    gain = body.op("Mul", inverse, scale)
    zero = body.number(0.0)
    if call.whole("relu"):
        kept = body.wide(y[0], dtype) if y else _normalised(body, call, x, mean, gain, bias, rank)
        dy = body.op("Where", body.op("Greater", kept, zero), dy, zero)
    xhat = body.op(
        "Mul", body.op("Sub", x, _column(body, call, mean, rank)), _column(body, call, inverse, rank)
    )  # fmt: skip
    dbias = body.reshape(body.sum(dy, others), [-1])
    dscale = body.reshape(body.sum(body.op("Mul", dy, xhat), others), [-1])
    share = body.number(call.inputs[1].shape[axis] / max(1, call.inputs[1].size))
    slope = _column(body, call, body.op("Mul", dscale, share), rank)
    level = _column(body, call, body.op("Mul", dbias, share), rank)
    inner = body.op("Sub", body.op("Sub", dy, level), body.op("Mul", xhat, slope))
    dx = body.op("Mul", inner, _column(body, call, gain, rank))
    return [body.narrow(dx, dtype), dscale, dbias, *(body.narrow(dy, dtype) for _ in y)]


# --- kernels for a card


def _constants(call: Call, wide: bool) -> dict[str, bool | float]:
    added = len(call.inputs) == len(call.operator.inputs)
    return {"WIDE": wide, "RELU": bool(call.whole("relu")), "ADDED": added, "EPSILON": call.real("epsilon")}


def _fits(call: Call, x: TensorType) -> bool:
    """Whether the kernels serve the call: channels last, and something to do."""
    return (bool(call.whole("channels_last")) or len(x.shape) == 2) and x.size > 0


def _forward_kernel(call: Call, wide: bool = True) -> SourceKernel | None:
    x, n = call.inputs[0], len(call.inputs)
    if not _fits(call, x):
        return None
    tiling, part = Tiling(x), Buffer(WORKSPACE)
    y, mean, variance = (Buffer(n + k) for k in range(3))
    operands = tuple(Buffer(k if k < n else 0) for k in range(4))  # x stands in for a residual that is none
    launches = (
        Launch("PREFIX_statistics", tiling.grid, THREADS, (Buffer(0), part), frozenset({1})),
        Launch("PREFIX_finish", tiling.joining, THREADS, (part, mean, variance), frozenset({1, 2})),
        Launch("PREFIX_apply", tiling.grid, THREADS, (*operands, y, mean, variance), frozenset({4})),
    )
    narrow = _forward_kernel(call, wide=False) if wide else None
    source = tiling.source(_constants(call, wide), "normalise.cuh", "batch_norm.cu")
    return SourceKernel(source, launches, 2 * tiling.part_bytes, alignment=VECTOR_BYTES, narrow=narrow)


def _gradient_kernel(call: Call, wide: bool = True) -> SourceKernel | None:
    x, n = call.inputs[1], len(call.inputs)
    if not _fits(call, x):
        return None
    tiling, part, variance = Tiling(x), Buffer(WORKSPACE), Buffer(5)
    operands = tuple(Buffer(k if k < n else 0) for k in range(7))  # dy stands in for a y that is not needed
    dx, dscale, dbias, *dresidual = (Buffer(n + k) for k in range(len(call.outputs)))
    spread = (*operands, dx, dscale, dbias, *(dresidual or (dx,)))
    launches = (
        Launch("PREFIX_sums", tiling.grid, THREADS, (*operands, part), frozenset({7})),
        Launch("PREFIX_join", tiling.joining, THREADS, (part, variance, dscale, dbias), frozenset({2, 3})),
        Launch("PREFIX_spread", tiling.grid, THREADS, spread, frozenset({7, 10})),
    )
    narrow = _gradient_kernel(call, wide=False) if wide else None
    source = tiling.source(_constants(call, wide), "normalise.cuh", "batch_norm_gradient.cu")
    return SourceKernel(source, launches, 2 * tiling.part_bytes, alignment=VECTOR_BYTES, narrow=narrow)


# --- on the CPU


def _library(gradient: bool, call: Call) -> BatchNormKernel | None:
    """The norm for a library of the CPU: of float32 alone."""
    x, last = call.inputs[gradient], bool(call.whole("channels_last"))
    if x.dtype != TensorProto.FLOAT or not x.size:
        return None
    dims = tuple(x.shape[axis] for axis in to_first(len(x.shape))) if last else x.shape
    added = len(call.inputs) == len(call.operator.inputs)
    lies = Strided.of(dims, x.dtype, last)
    return BatchNormKernel(gradient, lies, call.real("epsilon"), bool(call.whole("relu")), added)


BATCH_NORM = register(
    Operator(
        "BatchNorm",
        ("x", "scale", "bias", "residual"),
        ("y", "mean", "variance"),
        _forward_types,
        _forward,
        _ATTRIBUTES,
        optional=1,
        saved=frozenset({"mean", "variance"}),
        cuda=_forward_kernel,
        cpu=partial(_library, False),
    )
)
"""y = gain (x - mean) + bias, plus the residual, through a ReLU where `relu` is 1."""

BATCH_NORM_GRADIENT = register(
    Operator(
        "BatchNormGradient",
        ("dy", "x", "scale", "bias", "mean", "variance", "y"),
        ("dx", "dscale", "dbias", "dresidual"),
        _gradient_types,
        _gradient,
        _ATTRIBUTES,
        optional=1,
        cuda=_gradient_kernel,
        cpu=partial(_library, True),
    )
)
"""Behind an addition and a ReLU `y` tells where the ReLU let through; `dresidual` is the gradient of what was added."""

__all__ = ["BATCH_NORM", "BATCH_NORM_GRADIENT"]
