"""Group-norm (Wu and He, 2018) and, with a group for each channel, instance-norm (Ulyanov et al., 2016).

X [N, C, ...] is normalised over the channels of a group and all positions; scale and bias [C]. Kept for the gradient: X,
and mean and inverse deviation of every group in float32. Each pass takes the rows of one channel apart, so that few large
groups keep a card as busy as many small ones.
"""

import math
from collections.abc import Mapping, Sequence

from onnx import TensorProto

from planc.kernels.body import Body
from planc.kernels.device import WORKSPACE, Buffer, Launch, SourceKernel
from planc.kernels.operator import Attribute, Call, Operator, TensorType, register
from planc.kernels.source import C_TYPES, VECTOR_BYTES, source_of, width_of

_ATTRIBUTES: Mapping[str, Attribute] = {"groups": 1, "epsilon": 1e-5}


def _statistics(call: Call, x: TensorType, scale: TensorType) -> TensorType:
    """The type of the groups' statistics. Raises ModelError when x and scale do not fit."""
    groups = call.whole("groups")
    known = x.dtype in C_TYPES and scale.dtype in C_TYPES
    if not known or len(x.shape) < 2 or scale.shape != x.shape[1:2] or groups < 1 or x.shape[1] % groups:
        raise call.refuse("x [N, C, ...] of a float type up to 32 bits, C a multiple of the groups, and a scale [C]")
    return TensorType(TensorProto.FLOAT, (x.shape[0] * groups, 2))


# --- meaning


def _rows(call: Call, body: Body, name: str, x: TensorType) -> str:
    """[N G, C / G, L] in float32."""
    count = x.shape[0] * call.whole("groups")
    inner = math.prod(x.shape[2:])
    return body.reshape(body.wide(name, x.dtype), [count, x.shape[1] // call.whole("groups"), inner])


def _channels(call: Call, body: Body, name: str, x: TensorType, vector: TensorType) -> str:
    """A vector of channels as it broadcasts against [N G, C / G, L]."""
    groups = call.whole("groups")
    column = body.reshape(body.wide(name, vector.dtype), [1, groups, x.shape[1] // groups, 1])
    spread = body.op("Expand", column, body.ints(x.shape[0], groups, x.shape[1] // groups, 1))
    return body.reshape(spread, [x.shape[0] * groups, x.shape[1] // groups, 1])


def _forward_types(call: Call) -> tuple[TensorType, ...]:
    x, scale, bias = call.inputs
    statistics = _statistics(call, x, scale)
    if bias != scale:
        raise call.refuse("a bias of the type of the scale")
    return x, statistics


def _forward(call: Call, body: Body) -> Sequence[str]:
    x, scale, bias = call.inputs
    wide = _rows(call, body, body.inputs[0], x)
    mean = body.mean(wide, [1, 2])
    centred = body.op("Sub", wide, mean)
    variance = body.mean(body.op("Mul", centred, centred), [1, 2])
    deviation = body.op("Sqrt", body.op("Add", variance, body.number(call.real("epsilon"))))
    inverse = body.op("Reciprocal", deviation)
    y = body.op("Mul", body.op("Mul", centred, inverse), _channels(call, body, body.inputs[1], x, scale))
    y = body.op("Add", y, _channels(call, body, body.inputs[2], x, bias))
    statistics = body.op("Concat", *(body.reshape(v, [-1, 1]) for v in (mean, inverse)), axis=1)
    return [body.narrow(body.reshape(y, x.shape), x.dtype), statistics]


def _gradient_types(call: Call) -> tuple[TensorType, ...]:
    dy, x, scale, statistics = call.inputs
    if dy != x or statistics != _statistics(call, x, scale):
        raise call.refuse("dy of the type of x, and float32 statistics [N groups, 2]")
    return x, scale, scale


def _gradient(call: Call, body: Body) -> Sequence[str]:
    """As that of layer-norm, with g = dy scale; dscale and dbias are sums over samples and positions."""
    _, x, scale, _ = call.inputs
    dy, wide = (_rows(call, body, name, x) for name in body.inputs[:2])
    mean, inverse = (body.reshape(body.slice(body.inputs[3], 1, k, k + 1), [-1, 1, 1]) for k in range(2))
    xhat = body.op("Mul", body.op("Sub", wide, mean), inverse)
    g = body.op("Mul", dy, _channels(call, body, body.inputs[2], x, scale))
    along = body.op("Mul", xhat, body.mean(body.op("Mul", g, xhat), [1, 2]))
    inner = body.op("Sub", body.op("Sub", g, body.mean(g, [1, 2])), along)
    dx = body.narrow(body.reshape(body.op("Mul", inner, inverse), x.shape), x.dtype)
    sums = []
    for a in (body.op("Mul", dy, xhat), dy):
        of_channels = body.reshape(body.sum(a, [2]), [x.shape[0], x.shape[1]])
        sums.append(body.narrow(body.sum(of_channels, [0], keepdims=False), scale.dtype))
    return [dx, *sums]


# --- kernels for a card

_BLOCK = 256


def _constants(call: Call, x: TensorType, wide: bool) -> dict[str, int | float | bool]:
    count = math.prod(x.shape[2:])
    width = width_of(x.nbytes // x.size, count)
    group = 32 if count <= 32 * 4 * width else _BLOCK
    return {
        "C": x.shape[1], "CG": x.shape[1] // call.whole("groups"), "L": count, "ROWS": x.shape[0] * x.shape[1],
        "N": x.shape[0], "W": width, "GROUP": group, "THREADS": _BLOCK, "AT_ONCE": _BLOCK // group,
        "EPSILON": call.real("epsilon"), "WIDE": wide,
    }  # fmt: skip


def _forward_kernel(call: Call, wide: bool = True) -> SourceKernel | None:
    x, scale, _ = call.inputs
    if not x.size:
        return None
    constants, part = _constants(call, x, wide), Buffer(WORKSPACE)
    grid = (-(-x.shape[0] * x.shape[1] // int(constants["AT_ONCE"])), 1, 1)
    operands = (*map(Buffer, range(3)), part, Buffer(3), Buffer(4))
    launches = (
        Launch("PREFIX_statistics", grid, _BLOCK, (Buffer(0), part), frozenset({1})),
        Launch("PREFIX_apply", grid, _BLOCK, operands, frozenset({4, 5})),
    )
    narrow = _forward_kernel(call, wide=False) if wide else None
    source = source_of(
        constants, x.dtype, "sums_of_row.cuh", "channel_rows.cuh", "group_norm.cu", types={"S": scale.dtype}
    )
    workspace = 8 * x.shape[0] * x.shape[1]
    return SourceKernel(source, launches, workspace, alignment=VECTOR_BYTES, narrow=narrow)


def _gradient_kernel(call: Call, wide: bool = True) -> SourceKernel | None:
    _, x, scale, _ = call.inputs
    if not x.size:
        return None
    constants, part = _constants(call, x, wide), Buffer(WORKSPACE)
    grid = (-(-x.shape[0] * x.shape[1] // int(constants["AT_ONCE"])), 1, 1)
    dx, dscale, dbias = map(Buffer, range(4, 7))
    launches = (
        Launch("PREFIX_sums", grid, _BLOCK, (Buffer(0), Buffer(1), Buffer(3), part), frozenset({3})),
        Launch("PREFIX_spread", grid, _BLOCK, (*map(Buffer, range(4)), part, dx), frozenset({5})),
        Launch("PREFIX_join", (-(-x.shape[1] // 8), 1, 1), 256, (part, dscale, dbias), frozenset({1, 2})),
    )
    narrow = _gradient_kernel(call, wide=False) if wide else None
    source = source_of(
        constants, x.dtype, "sums_of_row.cuh", "channel_rows.cuh", "group_norm_gradient.cu", types={"S": scale.dtype}
    )
    workspace = 8 * x.shape[0] * x.shape[1]
    return SourceKernel(source, launches, workspace, alignment=VECTOR_BYTES, narrow=narrow)


GROUP_NORM = register(
    Operator(
        "GroupNorm",
        ("x", "scale", "bias"),
        ("y", "statistics"),
        _forward_types,
        _forward,
        _ATTRIBUTES,
        saved=frozenset({"statistics"}),
        cuda=_forward_kernel,
    )
)

GROUP_NORM_GRADIENT = register(
    Operator(
        "GroupNormGradient",
        ("dy", "x", "scale", "statistics"),
        ("dx", "dscale", "dbias"),
        _gradient_types,
        _gradient,
        _ATTRIBUTES,
        cuda=_gradient_kernel,
    )
)

__all__ = ["GROUP_NORM", "GROUP_NORM_GRADIENT"]
