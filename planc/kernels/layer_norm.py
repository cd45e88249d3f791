"""Layer-norm (Ba, Kiros and Hinton, 2016) and RMS-norm (Zhang and Sennrich, 2019), forward and backward: a pass each.

X [..., K...] is normalised over its last axes, those of `scale`; without `centred` nothing is subtracted, which is the
RMS-norm. The result may be of a narrower type than X, and so may its gradient: a Cast behind a norm costs no pass. Kept for
the gradient: X and two numbers for each row, mean and inverse deviation (one, without `centred`), in float32.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial

from onnx import TensorProto

from planc.kernels.body import Body
from planc.kernels.device import WORKSPACE, Buffer, Launch, LayerNormKernel, SourceKernel
from planc.kernels.operator import Attribute, Call, Operator, TensorType, register
from planc.kernels.source import C_TYPES, VECTOR_BYTES, source_of, width_of

LONGEST = 16384
"""Elements of a row at most for the kernels: the block that computes it holds it in registers."""

_ATTRIBUTES: Mapping[str, Attribute] = {"epsilon": 1e-5, "centred": 1}


def _sizes(x: TensorType, scale: TensorType) -> tuple[int, int]:
    """Rows, and elements of a row."""
    return math.prod(x.shape[: len(x.shape) - len(scale.shape)]), scale.size


def _fits(x: TensorType, scale: TensorType) -> bool:
    last = x.shape[len(x.shape) - len(scale.shape) :]
    return x.dtype in C_TYPES and scale.dtype in C_TYPES and bool(scale.shape) and last == scale.shape


def _statistics(call: Call, x: TensorType, scale: TensorType) -> TensorType:
    return TensorType(TensorProto.FLOAT, (_sizes(x, scale)[0], 1 + call.whole("centred")))


# --- meaning


def _forward_types(call: Call) -> tuple[TensorType, ...]:
    x, scale, *bias = call.inputs
    if not _fits(x, scale) or any(b != scale for b in bias) or (bias and not call.whole("centred")):
        raise call.refuse("x of a float type up to 32 bits, a scale of its last axes, and a bias like it if centred")
    made = call.whole("to") or x.dtype
    if made not in C_TYPES:
        raise call.refuse("a result of a float type up to 32 bits")
    return TensorType(made, x.shape), _statistics(call, x, scale)


def _row(body: Body, name: str, kind: TensorType) -> str:
    """A vector of a row's elements, in float32."""
    return body.reshape(body.wide(name, kind.dtype), [kind.size])


def _forward(call: Call, body: Body) -> Sequence[str]:
    x, scale = call.inputs[:2]
    rows, columns = _sizes(x, scale)
    wide = body.reshape(body.wide(body.inputs[0], x.dtype), [rows, columns])
    found = []
    if call.whole("centred"):
        found = [body.mean(wide, [1])]
        wide = body.op("Sub", wide, found[0])
    square = body.op("Add", body.mean(body.op("Mul", wide, wide), [1]), body.number(call.real("epsilon")))
    found.append(body.op("Reciprocal", body.op("Sqrt", square)))
    y = body.op("Mul", body.op("Mul", wide, found[-1]), _row(body, body.inputs[1], scale))
    for bias in body.inputs[2:]:
        y = body.op("Add", y, _row(body, bias, scale))
    statistics = body.op("Concat", *found, axis=1) if len(found) > 1 else found[0]
    return [body.narrow(body.reshape(y, x.shape), call.outputs[0].dtype), statistics]


def _gradient_types(call: Call) -> tuple[TensorType, ...]:
    dy, x, scale, statistics, *addend = call.inputs
    if not _fits(x, scale) or dy.shape != x.shape or dy.dtype not in C_TYPES or any(a != x for a in addend):
        raise call.refuse("dy of the shape of x, x, a scale of its last axes, statistics, and an addend like x")
    if statistics != _statistics(call, x, scale):
        raise call.refuse(f"float32 statistics {list(_statistics(call, x, scale).shape)}")
    return x, *[scale] * (1 + call.whole("centred"))


def _gradient(call: Call, body: Body) -> Sequence[str]:
    """dx = inverse (g - mean g - xhat mean(g xhat)) with g = dy scale, dscale = sum dy xhat, dbias = sum dy."""
    dy, x, scale = call.inputs[:3]
    rows, columns = _sizes(x, scale)
    wide_dy, wide = (
        body.reshape(body.wide(name, kind.dtype), [rows, columns])
        for name, kind in zip(body.inputs, (dy, x), strict=False)
    )
    centred, statistics = call.whole("centred"), body.inputs[3]
    inverse = body.slice(statistics, 1, centred, centred + 1)
    if centred:
        wide = body.op("Sub", wide, body.slice(statistics, 1, 0, 1))
    xhat = body.op("Mul", wide, inverse)
    g = body.op("Mul", wide_dy, _row(body, body.inputs[2], scale))
    inner = body.op("Sub", g, body.op("Mul", xhat, body.mean(body.op("Mul", g, xhat), [1])))
    if centred:
        inner = body.op("Sub", inner, body.mean(g, [1]))
    dx = body.reshape(body.op("Mul", inner, inverse), x.shape)
    for addend in body.inputs[4:]:
        dx = body.op("Add", dx, body.wide(addend, x.dtype))
    sums = [body.op("Mul", wide_dy, xhat), *([wide_dy] if centred else [])]
    vectors = (body.reshape(body.sum(a, [0]), scale.shape) for a in sums)
    return [body.narrow(dx, x.dtype), *(body.narrow(v, scale.dtype) for v in vectors)]


# --- kernels for a card

_MOST_THREADS = 1024

_OF_A_THREAD = 16
"""Elements of a row that a thread of a whole block holds; a thread of a warp holds up to twice as many."""

_BLOCK = 256
"""Threads of a block whose rows are shorter than that of one warp each."""

_THREADS_AT_WORK = 132 * 512
"""Threads that the gradient's ranges of rows keep busy: two blocks of 256 for each multiprocessor of an H100. It decides
the order of sums, so it is the same on every card."""


class _Layout:
    """How rows are dealt out: `group` of a block's `threads` share a row, each has `per` vectors of `width` elements."""

    def __init__(self, rows: int, columns: int, itemsize: int) -> None:
        self.rows, self.columns, self.width = rows, columns, width_of(itemsize, columns)
        vectors = columns // self.width
        if columns <= 32 * 2 * _OF_A_THREAD:
            self.group, self.threads = next(n for n in (1, 2, 4, 8, 16, 32) if n >= min(vectors, 32)), _BLOCK
        else:
            wanted = -(-columns // _OF_A_THREAD)
            self.group = self.threads = next((n for n in (64, 128, 256, 512) if n >= wanted), _MOST_THREADS)
        self.per = -(-vectors // self.group)
        self.at_once = self.threads // self.group
        ranges = max(1, _THREADS_AT_WORK // self.threads)
        self.share = max(self.at_once, -(-rows // ranges))
        self.splits = -(-rows // self.share)

    def constants(self, call: Call, wide: bool) -> dict[str, int | float | bool]:
        """What the kernels are told of it."""
        return {
            "K": self.columns, "M": self.rows, "W": self.width, "PER": self.per, "GROUP": self.group,
            "THREADS": self.threads, "AT_ONCE": self.at_once, "SHARE": self.share, "SPLITS": self.splits,
            "EPSILON": call.real("epsilon"), "CENTRED": bool(call.whole("centred")),
            "WIDE": wide,
        }  # fmt: skip


def has_kernel(columns: int, dtypes: Sequence[int]) -> bool:
    """Whether a card has kernels for rows of so many elements, of tensors of these element types."""
    return 0 < columns <= LONGEST and all(dtype in C_TYPES for dtype in dtypes)


def _layout(x: TensorType, scale: TensorType, others: Sequence[TensorType]) -> _Layout | None:
    if not x.size or not has_kernel(scale.size, [x.dtype, scale.dtype]):
        return None
    return _Layout(*_sizes(x, scale), max(t.nbytes // t.size for t in (x, scale, *others)))


def _forward_kernel(call: Call, wide: bool = True) -> SourceKernel | None:
    x, scale, *bias = call.inputs
    layout = _layout(x, scale, call.outputs[:1])
    if layout is None:
        return None
    n = len(call.inputs)
    constants = {**layout.constants(call, wide), "BIASED": bool(bias)}
    arguments = (Buffer(0), Buffer(1), Buffer(n - 1), Buffer(n), Buffer(n + 1))  # the scale stands in for no bias
    grid = (-(-layout.rows // layout.at_once), 1, 1)
    launch = Launch("PREFIX_norm", grid, layout.threads, arguments, frozenset({3, 4}))
    types = {"S": scale.dtype, "U": call.outputs[0].dtype}
    source = source_of(constants, x.dtype, "sums_of_row.cuh", "norm_rows.cuh", "layer_norm.cu", types=types)
    narrow = _forward_kernel(call, wide=False) if wide else None
    return SourceKernel(source, (launch,), alignment=VECTOR_BYTES, narrow=narrow)


def _gradient_kernel(call: Call, wide: bool = True) -> SourceKernel | None:
    dy, x, scale, _, *addend = call.inputs
    layout = _layout(x, scale, [dy])
    if layout is None:
        return None
    n, part = len(call.inputs), Buffer(WORKSPACE)
    constants = {**layout.constants(call, wide), "ADDED": bool(addend)}
    operands = (*map(Buffer, range(4)), Buffer(4 if addend else 1))
    vectors = (Buffer(n + 1), Buffer(n + 1 + call.whole("centred")))
    launches = (
        Launch("PREFIX_rows", (layout.splits, 1, 1), layout.threads, (*operands, Buffer(n), part), frozenset({5, 6})),
        Launch("PREFIX_join", (-(-layout.columns // 8), 1, 1), 256, (part, *vectors), frozenset({1, 2})),
    )
    types = {"S": scale.dtype, "U": dy.dtype}
    source = source_of(constants, x.dtype, "sums_of_row.cuh", "norm_rows.cuh", "layer_norm_gradient.cu", types=types)
    workspace = 4 * layout.splits * layout.columns * (1 + call.whole("centred"))
    narrow = _gradient_kernel(call, wide=False) if wide else None
    return SourceKernel(source, launches, workspace, alignment=VECTOR_BYTES, narrow=narrow)


# --- on the CPU


def _library(gradient: bool, call: Call) -> LayerNormKernel | None:
    """The norm for a library of the CPU: centred, of float32 alone, nothing added to the gradient."""
    x, scale = call.inputs[gradient : gradient + 2]
    types = {t.dtype for t in (*call.inputs, *call.outputs)}
    if types != {TensorProto.FLOAT} or not call.whole("centred") or not x.size or len(call.inputs) > 4:
        return None
    return LayerNormKernel(gradient, *_sizes(x, scale), call.real("epsilon"), len(call.inputs) == 3)


LAYER_NORM = register(
    Operator(
        "LayerNorm",
        ("x", "scale", "bias"),
        ("y", "statistics"),
        _forward_types,
        _forward,
        {**_ATTRIBUTES, "to": 0},
        optional=1,
        saved=frozenset({"statistics"}),
        cuda=_forward_kernel,
        cpu=partial(_library, False),
        in_place=(0,),
    )
)
"""y = (x - mean) inverse scale + bias, in the ONNX element type `to`, that of x where it is 0."""

LAYER_NORM_GRADIENT = register(
    Operator(
        "LayerNormGradient",
        ("dy", "x", "scale", "statistics", "addend"),
        ("dx", "dscale", "dbias"),
        _gradient_types,
        _gradient,
        _ATTRIBUTES,
        optional=1,
        cuda=_gradient_kernel,
        cpu=partial(_library, True),
        in_place=(0, 1, 4),
    )
)
"""`addend` is what reaches x by another way, a residual's gradient: dx has it added."""

__all__ = ["LAYER_NORM", "LAYER_NORM_GRADIENT", "LONGEST", "has_kernel"]
