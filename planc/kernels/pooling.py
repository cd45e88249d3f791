"""Max-pool and average-pool with their gradients, one kernel each: a thread gathers what belongs to its element, so that
nothing is added by atomics.

X [N, C, ...], or [N, ..., C] with `channels_last`, which the kernels are for. Max-pool keeps for its gradient not X but the
place of each maximum within its window, one byte in row-major order. `pads` are those before all spatial axes, then those
behind; the output's sizes are given, since they may be rounded up.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

import numpy as np
from onnx import TensorProto

from planc.kernels.body import Body
from planc.kernels.convolution import to_first, to_last
from planc.kernels.device import Buffer, Launch, PoolKernel, SourceKernel, Strided
from planc.kernels.operator import Attribute, Call, Operator, TensorType, register
from planc.kernels.source import C_TYPES, VECTOR_BYTES, source_of, width_of

MAX_WINDOW = 255
"""Places that one byte can tell apart, less one for a window without any."""

_THREADS = 256
_COMMON: Mapping[str, Attribute] = {"kernel": (), "strides": (), "pads": (), "channels_last": 0}


@dataclass(frozen=True)
class _Pool:
    """Sizes of a call: planar shapes of X and Y, and the window."""

    x: tuple[int, ...]
    y: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def spatial(self) -> int:
        return len(self.kernel)

    def reach(self) -> list[int]:
        """How far beyond each axis the last window reaches; negative where it ends before."""
        sizes = zip(self.x[2:], self.y[2:], self.kernel, self.strides, self.dilations, self.before, strict=True)
        return [(o - 1) * s + d * (k - 1) + 1 - n - p for n, o, k, s, d, p in sizes]

    def ends(self) -> list[int]:
        """Padding behind each axis as far as windows reach."""
        return [max(0, beyond) for beyond in self.reach()]

    @property
    def rounded_up(self) -> bool:
        """Whether the last windows reach beyond the padding."""
        return any(end > after for end, after in zip(self.ends(), self.after, strict=True))


def _planar(call: Call, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[i] for i in to_first(len(shape))) if call.whole("channels_last") else shape


def _stored(call: Call, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[i] for i in to_last(len(shape))) if call.whole("channels_last") else shape


def _pool(call: Call, x: tuple[int, ...], y: tuple[int, ...]) -> _Pool:
    """The pool from planar X to Y. Raises ModelError when the sizes do not fit together."""
    n = len(x) - 2
    kernel, strides, pads = call.ints("kernel"), call.ints("strides"), call.ints("pads")
    dilations = call.ints("dilations") if "dilations" in call.attributes else (1,) * n
    if not 1 <= n <= 3 or [len(kernel), len(strides), len(dilations), len(pads)] != [n, n, n, 2 * n] or len(y) != n + 2:
        raise call.refuse("one to three spatial axes, and a kernel, strides and pads of each")
    if min((*kernel, *strides, *dilations)) < 1 or min(pads) < 0 or prod(kernel) > MAX_WINDOW:
        raise call.refuse(f"a window of 1 to {MAX_WINDOW} places, positive strides, pads that are not negative")
    pool = _Pool(x, y, kernel, strides, dilations, pads[:n], pads[n:])
    starts = [(o - 1) * s - p for o, s, p in zip(y[2:], strides, pads[:n], strict=True)]
    if x[:2] != y[:2] or min(y) < 1 or any(start >= size for start, size in zip(starts, x[2:], strict=True)):
        raise call.refuse(f"windows that begin inside the input, for outputs {list(y)} of {list(x)}")
    return pool


def _forward_pool(call: Call) -> _Pool:
    (x,) = call.inputs
    if x.dtype not in C_TYPES or len(x.shape) < 3:
        raise call.refuse("a float32, float16 or bfloat16 tensor [N, C, ...]")
    planar = _planar(call, x.shape)
    return _pool(call, planar, (*planar[:2], *call.ints("size")))


def _backward_pool(call: Call) -> _Pool:
    dy = call.inputs[0]
    if dy.dtype not in C_TYPES or len(dy.shape) < 3:
        raise call.refuse("a float32, float16 or bfloat16 gradient [N, C, ...]")
    planar = _planar(call, dy.shape)
    return _pool(call, (*planar[:2], *call.ints("size")), planar)


def _read(call: Call, body: Body, name: str, rank: int) -> str:
    return body.transpose(name, to_first(rank)) if call.whole("channels_last") else name


def _written(call: Call, body: Body, name: str, rank: int) -> str:
    return body.transpose(name, to_last(rank)) if call.whole("channels_last") else name


# --- max-pool


def _max_types(call: Call) -> tuple[TensorType, ...]:
    shape = _stored(call, _forward_pool(call).y)
    return TensorType(call.inputs[0].dtype, shape), TensorType(TensorProto.UINT8, shape)


def _starts(pool: _Pool, axis: int) -> np.ndarray:
    """Where the windows begin along a spatial axis, [size of the output, 1, ...]."""
    begin = np.arange(pool.y[2 + axis], dtype=np.int64) * pool.strides[axis] - pool.before[axis]
    return begin.reshape(-1, *[1] * (pool.spatial - 1 - axis))


def _max(call: Call, body: Body) -> Sequence[str]:
    """The place within the window, from the flat index that the standard operator gives."""
    pool, dtype = _forward_pool(call), call.inputs[0].dtype
    rank = len(pool.x)
    x = body.wide(_read(call, body, body.inputs[0], rank), dtype)
    y, flat = body.ops(
        "MaxPool", [x], 2, kernel_shape=list(pool.kernel), strides=list(pool.strides), dilations=list(pool.dilations),
        pads=[*pool.before, *pool.after], ceil_mode=int(pool.rounded_up),
    )  # fmt: skip
    rest = body.op("Mod", flat, body.ints(prod(pool.x[2:])))
    place = body.constant(np.zeros((), np.int64))
    for axis in range(pool.spatial):
        below = prod(pool.x[3 + axis :])
        here = body.op("Div", rest, body.ints(below))
        rest = body.op("Sub", rest, body.op("Mul", here, body.ints(below)))
        tap = body.op("Sub", here, body.constant(_starts(pool, axis)))
        tap = body.op("Div", tap, body.ints(pool.dilations[axis]))
        place = body.op("Add", body.op("Mul", place, body.ints(pool.kernel[axis])), tap)
    position = body.op("Cast", place, to=TensorProto.UINT8)
    return [_written(call, body, body.narrow(y, dtype), rank), _written(call, body, position, rank)]


def _max_gradient_types(call: Call) -> tuple[TensorType, ...]:
    dy, position = call.inputs
    if position != TensorType(TensorProto.UINT8, dy.shape):
        raise call.refuse("the places of the maxima, uint8, one for each element of dy")
    return (TensorType(dy.dtype, _stored(call, _backward_pool(call).x)),)


def _max_gradient(call: Call, body: Body) -> Sequence[str]:
    """dy scattered to the maxima; what meets is added."""
    pool, dtype = _backward_pool(call), call.inputs[0].dtype
    rank = len(pool.x)
    dy = body.wide(_read(call, body, body.inputs[0], rank), dtype)
    place = body.op("Cast", _read(call, body, body.inputs[1], rank), to=TensorProto.INT64)
    images = np.arange(prod(pool.x[:2]), dtype=np.int64) * prod(pool.x[2:])
    flat = body.constant(images.reshape(*pool.x[:2], *[1] * pool.spatial))
    for axis in range(pool.spatial):
        tap = body.op("Div", place, body.ints(prod(pool.kernel[axis + 1 :])))
        tap = body.op("Mod", tap, body.ints(pool.kernel[axis]))
        here = body.op("Add", body.op("Mul", tap, body.ints(pool.dilations[axis])), body.constant(_starts(pool, axis)))
        flat = body.op("Add", flat, body.op("Mul", here, body.ints(prod(pool.x[3 + axis :]))))
    zeros = body.op("Expand", body.number(0.0), body.ints(prod(pool.x)))
    flat, values = (body.reshape(v, [-1]) for v in (flat, dy))
    total = body.op("ScatterElements", zeros, flat, values, axis=0, reduction="add")
    return [_written(call, body, body.narrow(body.reshape(total, pool.x), dtype), rank)]


# --- average-pool


def _average_types(call: Call) -> tuple[TensorType, ...]:
    return (TensorType(call.inputs[0].dtype, _stored(call, _forward_pool(call).y)),)


def _counts(call: Call, pool: _Pool) -> np.ndarray:
    """Positions that each output averages, [...]."""
    counts = np.ones((), np.int64)
    for axis in range(pool.spatial):
        start = _starts(pool, axis).reshape(-1)
        low, high = start, np.full_like(start, pool.x[2 + axis] + pool.after[axis])
        if not call.whole("padded"):
            low, high = np.maximum(start, 0), np.full_like(start, pool.x[2 + axis])
        counts = np.multiply.outer(counts, np.minimum(start + pool.kernel[axis], high) - low)
    return counts


def _average(call: Call, body: Body) -> Sequence[str]:
    """The window sums over zeros around X, divided by the counts."""
    pool, dtype = _forward_pool(call), call.inputs[0].dtype
    rank = len(pool.x)
    x = body.wide(_read(call, body, body.inputs[0], rank), dtype)
    padded = body.op("Pad", x, body.ints(0, 0, *pool.before, 0, 0, *pool.ends()))
    mean = body.op("AveragePool", padded, kernel_shape=list(pool.kernel), strides=list(pool.strides))
    scale = body.constant((prod(pool.kernel) / _counts(call, pool)).astype(np.float32))
    return [_written(call, body, body.narrow(body.op("Mul", mean, scale), dtype), rank)]


def _average_gradient_types(call: Call) -> tuple[TensorType, ...]:
    return (TensorType(call.inputs[0].dtype, _stored(call, _backward_pool(call).x)),)


def _average_gradient(call: Call, body: Body) -> Sequence[str]:
    """A transposed convolution of each channel's shares with a kernel of ones."""
    pool, dtype = _backward_pool(call), call.inputs[0].dtype
    rank = len(pool.x)
    dy = body.wide(_read(call, body, body.inputs[0], rank), dtype)
    share = body.op("Mul", dy, body.constant((1 / _counts(call, pool)).astype(np.float32)))
    alone = body.reshape(share, (prod(pool.y[:2]), 1, *pool.y[2:]))
    ones = body.constant(np.ones((1, 1, *pool.kernel), np.float32))
    spread = body.op("ConvTranspose", alone, ones, strides=list(pool.strides))
    reached = [(o - 1) * s + k for o, s, k in zip(pool.y[2:], pool.strides, pool.kernel, strict=True)]
    missing = [n + p - r for n, p, r in zip(pool.x[2:], pool.before, reached, strict=True)]
    dx = body.op("Pad", spread, body.ints(0, 0, *(-p for p in pool.before), 0, 0, *missing))
    return [_written(call, body, body.narrow(body.reshape(dx, pool.x), dtype), rank)]


# --- kernels for a card


def _kernel(file: str, backward: bool, call: Call, wide: bool = True) -> SourceKernel | None:
    pool = (_backward_pool if backward else _forward_pool)(call)
    if not call.whole("channels_last") or not prod(pool.x):
        return None
    x = TensorType(call.inputs[0].dtype, pool.x)
    lead = 3 - pool.spatial
    constants: dict[str, int | float | bool] = {"C": pool.x[1], "X_SIZE": prod(pool.x), "Y_SIZE": prod(pool.y)}
    constants |= {"WIDE": wide, "W": width_of(x.nbytes // x.size, pool.x[1])}
    constants |= {"PADDED": bool(call.attributes.get("padded", 0))}
    listed = {
        "": (1, pool.x[2:]), "O": (1, pool.y[2:]), "K": (1, pool.kernel), "S": (1, pool.strides),
        "D": (1, pool.dilations), "P": (0, pool.before), "Q": (0, pool.after),
    }  # fmt: skip
    for prefix, (filler, values) in listed.items():
        constants |= {prefix + axis: v for axis, v in zip("ABD", (*[filler] * lead, *values), strict=True)}
    size = prod(pool.x) if backward else prod(pool.y)
    grid = (-(-size // (int(constants["W"]) * _THREADS)), 1, 1)
    operands = tuple(Buffer(k) for k in range(len(call.inputs) + len(call.outputs)))
    function = "PREFIX_backward" if backward else "PREFIX_forward"
    launch = Launch(function, grid, _THREADS, operands, frozenset(range(len(call.inputs), len(operands))))
    narrow = _kernel(file, backward, call, wide=False) if wide else None
    return SourceKernel(source_of(constants, x.dtype, file), (launch,), alignment=VECTOR_BYTES, narrow=narrow)


def _max_kernel(call: Call) -> SourceKernel | None:
    return _kernel("max_pool.cu", False, call)


def _max_gradient_kernel(call: Call) -> SourceKernel | None:
    return _kernel("max_pool.cu", True, call)


def _average_kernel(call: Call) -> SourceKernel | None:
    return _kernel("average_pool.cu", False, call)


def _average_gradient_kernel(call: Call) -> SourceKernel | None:
    return _kernel("average_pool.cu", True, call)


# --- on the CPU


def _library(maximum: bool, backward: bool, call: Call) -> PoolKernel | None:
    """The pool for a library of the CPU, of float32 alone; it counts no pads beyond those given."""
    pool, last = (_backward_pool if backward else _forward_pool)(call), bool(call.whole("channels_last"))
    padded, dtype = bool(call.attributes.get("padded", 0)), call.inputs[0].dtype
    if dtype != TensorProto.FLOAT or not prod(pool.x) or (padded and pool.rounded_up):
        return None
    x, y = (Strided.of(dims, dtype, last) for dims in (pool.x, pool.y))
    pads = (pool.before, tuple(pool.reach()))
    return PoolKernel(backward, maximum, x, y, pool.kernel, pool.strides, pool.dilations, pads, padded)


_MAX: Mapping[str, Attribute] = {**_COMMON, "dilations": (), "size": ()}
_AVERAGE: Mapping[str, Attribute] = {**_COMMON, "padded": 0, "size": ()}

MAX_POOL = register(
    Operator(
        "MaxPool",
        ("x",),
        ("y", "position"),
        _max_types,
        _max,
        _MAX,
        saved=frozenset({"position"}),
        cuda=_max_kernel,
        cpu=partial(_library, True, False),
    )
)
"""`size` are the output's spatial sizes; of equal values the first counts."""

MAX_POOL_GRADIENT = register(
    Operator(
        "MaxPoolGradient",
        ("dy", "position"),
        ("dx",),
        _max_gradient_types,
        _max_gradient,
        _MAX,
        cuda=_max_gradient_kernel,
        cpu=partial(_library, True, True),
    )
)
"""`size` are the input's spatial sizes."""

AVERAGE_POOL = register(
    Operator(
        "AveragePool",
        ("x",),
        ("y",),
        _average_types,
        _average,
        _AVERAGE,
        cuda=_average_kernel,
        cpu=partial(_library, False, False),
    )
)
"""`size` are the output's spatial sizes; with `padded` the pads count as values."""

AVERAGE_POOL_GRADIENT = register(
    Operator(
        "AveragePoolGradient",
        ("dy",),
        ("dx",),
        _average_gradient_types,
        _average_gradient,
        _AVERAGE,
        cuda=_average_gradient_kernel,
        cpu=partial(_library, False, True),
    )
)
"""`size` are the input's spatial sizes."""
