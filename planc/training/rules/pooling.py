"""Gradients of pooling operators."""

import math
from functools import reduce
from itertools import pairwise
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from planc.errors import ModelError
from planc.kernels.pooling import AVERAGE_POOL_GRADIENT, MAX_POOL, MAX_POOL_GRADIENT, MAX_WINDOW
from planc.kernels.source import C_TYPES
from planc.training.emit.builder import Builder, Var
from planc.training.registry import ForwardNode, ForwardResult, Gradients, OutputGradients, forward_rule, gradient, sole
from planc.training.rules.shape import spread
from planc.training.rules.windows import Window, window_of

_INT32_MAX = 2**31 - 1

_COPY_BYTES, _MOST_PIECES = 1 << 20, 8
"""ScatterElements of ONNX Runtime's CPU provider keeps a copy of its indices, eight bytes each, that no plan sees: the
batch is scattered in so many pieces at most that the copy of one takes no more than this."""


def _has_kernel(node: ForwardNode, x: Var, window: Window) -> bool:
    """Whether the device has kernels of planc's own for a pool of X [N, C, ...]."""
    known = node.table.computes(x.dtype) and x.dtype in C_TYPES
    return known and 3 <= x.rank <= 5 and math.prod(window.kernel) <= MAX_WINDOW


def _settings(window: Window) -> dict[str, Any]:
    """The attributes that planc's pools share."""
    return {"kernel": window.kernel, "strides": window.strides, "pads": (*window.before, *window.after)}


@forward_rule("MaxPool")
def lower_max_pool(b: Builder, node: ForwardNode) -> ForwardResult:
    """MaxPool with its second output, the flat index of each maximum over the whole [N, C, ...] tensor.

    The indices are narrowed to four bytes where they fit, half of what the operator gives.
    """
    x, y = node.input(0), node.output
    if node.attribute("storage_order", 0):
        raise ModelError(f"{node.where}: storage_order 1 is not supported; use the default row-major order")
    window = window_of(node, node.attribute("kernel_shape", []), x.shape[2:])
    if _has_kernel(node, x, window):
        settings = {"dilations": window.dilations, **_settings(window)}
        _, position = b.kernel(MAX_POOL, [x], [y.name], size=y.shape[2:], **settings)
        return ForwardResult({"position": position})
    attributes = {k: v for k, v in node.attributes.items() if k != "storage_order"}
    outputs = [(y.shape, y.dtype), (y.shape, TensorProto.INT64)]
    _, indices = b.emit("MaxPool", [x], outputs, [y.name], **attributes)
    narrow = TensorProto.INT32 if x.size <= _INT32_MAX else TensorProto.INT64
    return ForwardResult({"indices": b.cast(indices, narrow)})


@gradient("MaxPool")
def max_pool(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """Each output's gradient goes to its maximum; where windows overlap, contributions add up."""
    if "position" in node.saved:
        window = window_of(node, node.attribute("kernel_shape", []), node.input(0).shape[2:])
        settings = {"dilations": window.dilations, **_settings(window)}
        operands = [sole(grads), node.saved["position"]]
        return {0: b.kernel(MAX_POOL_GRADIENT, operands, size=node.input(0).shape[2:], **settings)[0]}
    x, dy, indices = node.input(0), b.wide(sole(grads)), node.saved["indices"]
    if node.table.max_pool == "scatter":
        total = _scattered_in_pieces(b, dy, indices, x.shape)
    else:
        total = b.zeros((x.size,), dy.dtype)
        window = window_of(node, node.attribute("kernel_shape", []), x.shape[2:])
        for part, at in _disjoint(b, window, dy, indices):
            total = _scattered(b, total, part, at)
    return {0: b.cast(b.reshape(total, x.shape), x.dtype)}


def _scattered(b: Builder, total: Var, part: Var, at: Var) -> Var:
    """`total` [n] with every value of `part` added at its flat index `at`."""
    flat = [b.reshape(v, (part.size,)) for v in (at, part)]
    return b.op("ScatterElements", [total, *flat], total.shape, axis=0, reduction="add")


def _scattered_in_pieces(b: Builder, dy: Var, indices: Var, shape: tuple[int, ...]) -> Var:
    """dy [N, C, ...] added at `indices` over zeros of `shape`, flat, piece by piece of the batch."""
    batch, sample = shape[0], math.prod(shape[1:])
    count = min(batch, _MOST_PIECES, -(-8 * dy.size // _COPY_BYTES))
    edges = [batch * i // count for i in range(count + 1)]
    found = []
    for first, end in pairwise(edges):
        part, at = (b.slice(v, {0: (first, end, 1)}) for v in (dy, indices))
        if first:
            at = b.sub(at, b.constant(np.array(first * sample, helper.tensor_dtype_to_np_dtype(at.dtype))))
        found.append(_scattered(b, b.zeros(((end - first) * sample,), dy.dtype), part, at))
    return b.concat(found, 0)


def _disjoint(b: Builder, window: Window, dy: Var, indices: Var) -> list[tuple[Var, Var]]:
    """(dy, indices) split into parts whose windows do not overlap.

    ScatterElements adds by atomics on CUDA, so its sums repeat bit for bit only if no two indices are equal. Windows
    that are extent / stride apart along every axis share no input: 4 parts for 3x3 windows at stride 2.
    """
    apart = [-(-window.extent(i) // s) for i, s in enumerate(window.strides)]
    parts = []
    for first in range(math.prod(apart)):
        ranges, rest = {}, first
        for axis, step in enumerate(apart):
            ranges[2 + axis] = (rest % step, dy.shape[2 + axis], step)
            rest //= step
        if all(start < end for start, end, _ in ranges.values()):
            parts.append((b.slice(dy, ranges), b.slice(indices, ranges)))
    return parts


@gradient("AveragePool")
def average_pool(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """The sum of dy / count over the windows that cover each input.

    That is the window sum of dy spread by the stride, itself a stride-1 average pool: no kernel of ones, no scatter.
    """
    x, dy = node.input(0), sole(grads)
    window = window_of(node, node.attribute("kernel_shape", []), x.shape[2:])
    if any(d != 1 for d in window.dilations):
        raise ModelError(f"{node.where}: the gradient of a dilated AveragePool is not supported")
    if _has_kernel(node, x, window):
        settings = {"padded": int(node.attribute("count_include_pad", 0)), **_settings(window)}
        return {0: b.kernel(AVERAGE_POOL_GRADIENT, [dy], size=x.shape[2:], **settings)[0]}
    share = b.mul(dy, _reciprocal_counts(b, node, window))
    sizes = math.prod(window.kernel)
    if _tiles(window, x, dy):
        return {0: _repeat(b, share, window.kernel)}
    spaced = spread(b, share, {2 + i: s for i, s in enumerate(window.strides)})
    before, after = [0, 0], [0, 0]
    for i, kernel in enumerate(window.kernel):
        before.append(kernel - 1 - window.before[i])
        after.append(x.shape[2 + i] + window.before[i] - spaced.shape[2 + i])
    padded = b.pad(spaced, before, after)
    averaged = b.op("AveragePool", [padded], x.shape, kernel_shape=window.kernel, strides=[1] * len(window.kernel))
    return {0: b.mul(averaged, float(sizes))}


def _tiles(window: Window, x: Var, dy: Var) -> bool:
    """Whether the windows tile the input exactly."""
    exact = all(n == out * k for n, out, k in zip(x.shape[2:], dy.shape[2:], window.kernel, strict=True))
    return exact and window.strides == window.kernel and not any((*window.before, *window.after))


def _repeat(b: Builder, a: Var, times: tuple[int, ...]) -> Var:
    """[N, C, H, W] with every value repeated `times` along its spatial axes."""
    split, full = list(a.shape[:2]), list(a.shape[:2])
    for size, count in zip(a.shape[2:], times, strict=True):
        split += [size, 1]
        full += [size, count]
    joined = [size * count for size, count in zip(a.shape[2:], times, strict=True)]
    return b.reshape(b.expand(b.reshape(a, split), full), (*a.shape[:2], *joined))


def _reciprocal_counts(b: Builder, node: ForwardNode, window: Window) -> Var | float:
    """1 / (values averaged) per output position, a number where it is the same everywhere."""
    x, y = node.input(0), node.output
    include = bool(node.attribute("count_include_pad", 0))
    per_axis = []
    for i, kernel in enumerate(window.kernel):
        start = np.arange(y.shape[2 + i]) * window.strides[i] - window.before[i]
        low, high = (-window.before[i], x.shape[2 + i] + window.after[i]) if include else (0, x.shape[2 + i])
        per_axis.append(np.minimum(start + kernel, high) - np.maximum(start, low))
    counts = reduce(np.multiply.outer, per_axis)
    if len(np.unique(counts)) == 1:
        return float(1 / counts.flat[0])
    return b.constant((1 / counts).astype(helper.tensor_dtype_to_np_dtype(x.dtype))[None, None])


@gradient("GlobalAveragePool")
def global_average_pool(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """dx = dy / (number of positions) everywhere."""
    x, dy = node.input(0), sole(grads)
    return {0: b.expand(b.mul(dy, 1 / math.prod(x.shape[2:])), x.shape)}


@gradient("GlobalMaxPool")
def global_max_pool(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """dy to every position that holds the maximum, shared equally between ties."""
    x = node.input(0)
    return {0: share_among_equal(b, x, node.output, sole(grads), list(range(2, x.rank)))}


def share_among_equal(b: Builder, x: Var, extreme: Var, dy: Var, axes: list[int]) -> Var:
    """dy [with `axes` kept as ones] spread evenly over the positions where x equals `extreme`, as torch's amax."""
    equal = b.cast(b.compare("Equal", x, extreme), x.dtype)
    return b.mul(equal, b.div(dy, b.sum(equal, axes)))
