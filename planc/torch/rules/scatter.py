"""Scatters along one axis, and sources laid out by a mask."""

from typing import Any

import numpy as np
from onnx import TensorProto

from planc.errors import ModelError
from planc.torch.lowering import TorchLowering, aten, lower
from planc.training.apply import forward_node, gradients_of
from planc.training.emit.builder import Var

_REDUCTIONS = {"sum": "add", "prod": "mul", "amax": "max", "amin": "min", "mean": "add"}
_NEUTRAL = {"sum": 0.0, "prod": 1.0, "amax": -float("inf"), "amin": float("inf"), "mean": 0.0}


def _covered(c: TorchLowering, src: Var, index: Var) -> Var:
    """The part of `src` that the index covers."""
    return c.b.slice(src, {i: (0, d, 1) for i, d in enumerate(index.shape)})


@lower(aten.scatter_reduce.two)
def scatter_reduce(
    c: TorchLowering, self: Var, dim: int, index: Var, src: Var, reduce: str, include_self: bool = True
) -> Var:
    """src combined into self at `index` along an axis: sum, prod, mean, amax or amin."""
    if not c.table.scatter_add_repeats and reduce not in ("amax", "amin"):
        raise ModelError(
            f"scatter_reduce by {reduce} adds at colliding indices, which {c.table.device} does not repeat exactly"
        )
    if not self.rank:
        self, index, src = (c.b.reshape(v, (1,)) for v in (self, index, src))
    axis, part, base = dim % self.rank, _covered(c, src, index), self
    if not include_self:
        neutral = c.b.expand(c.b.scalar_for(_NEUTRAL[reduce], self), index.shape)
        base = c.b.op("ScatterElements", [self, index, neutral], self.shape, axis=axis)
    kind = _REDUCTIONS[reduce]
    found = c.b.op("ScatterElements", [base, index, part], self.shape, axis=axis, reduction=kind)
    if reduce == "mean":
        found = c.b.div(found, _counts(c, self, index, axis, include_self))
    return c.b.reshape(found, c.specs[0][0])


@lower(aten.index_reduce.default)
def index_reduce(
    c: TorchLowering, self: Var, dim: int, index: Var, source: Var, reduce: str, include_self: bool = True
) -> Var:
    """Slices of source combined into self at positions of an axis."""
    if not self.rank:
        self, source = (c.b.reshape(v, (1,)) for v in (self, source))
    axis = dim % self.rank
    column = c.b.reshape(index, [index.size if i == axis else 1 for i in range(self.rank)])
    full = c.b.expand(c.b.cast(column, TensorProto.INT64), source.shape)
    return scatter_reduce(c, self, axis, full, source, reduce, include_self)


def _counts(c: TorchLowering, like: Var, index: Var, axis: int, include_self: bool) -> Var:
    """How many values each position averages, at least one."""
    ones = c.b.expand(c.b.scalar_for(1.0, like), index.shape)
    start = c.b.expand(c.b.scalar_for(float(include_self), like), like.shape)
    counts = c.b.op("ScatterElements", [start, index, ones], like.shape, axis=axis, reduction="add")
    return counts if include_self else c.b.op("Max", [counts, c.b.scalar_for(1.0, like)], like.shape)


def _source_positions(c: TorchLowering, mask: Var, length: int) -> Var:
    """Which element of a source each masked position takes: the number of ones before it."""
    flat = c.b.cast(c.b.reshape(mask, (mask.size,)), TensorProto.INT64)
    before = c.b.sub(c.b.op("CumSum", [flat, c.b.constant(np.array(0, np.int64))], flat.shape), 1)
    bounds = [c.b.constant(np.array(v, np.int64)) for v in (0, max(0, length - 1))]
    return c.b.op("Clip", [before, *bounds], flat.shape)


@lower(aten.masked_scatter.default)
def masked_scatter(c: TorchLowering, self: Var, mask: Var, source: Var) -> Var:
    """The source's elements, in order, at the ones of the mask."""
    shape = c.specs[0][0]
    full, base = c.b.expand(mask, shape), c.b.expand(self, shape)
    at = _source_positions(c, full, source.size)
    line = c.b.reshape(source, (source.size,))
    found = c.b.op("Gather", [line, at], at.shape, axis=0)
    return c.b.where(full, c.b.reshape(found, shape), base)


@lower(aten.masked_scatter_backward.default)
def masked_scatter_backward(c: TorchLowering, grad_output: Var, mask: Var, sizes: list[int]) -> Var:
    """The gradient of the source: each element's is found at the one that took it."""
    shape, size = tuple(sizes), int(np.prod(sizes))
    full = c.b.expand(mask, grad_output.shape)
    at = _source_positions(c, full, size)
    kept = c.b.reshape(c.b.where(full, grad_output, 0.0), (grad_output.size,))
    node = forward_node(c.b, c.table, "Gather", [Var("", (size,), kept.dtype), at], [kept], axis=0)
    return c.b.reshape(gradients_of(c.b, node, [kept], [0])[0], shape)


@lower(aten.bucketize.Tensor, aten.bucketize.Scalar, raw=("self",))
def bucketize(c: TorchLowering, self: Any, boundaries: Var, out_int32: bool = False, right: bool = False) -> Var:
    """How many boundaries lie below each element, or not above it."""
    del out_int32
    shape, dtype = c.specs[0]
    a = c.value(self) if not isinstance(self, (int, float)) else c.b.full((), self, boundaries.dtype)
    column = c.b.reshape(c.b.cast(a, boundaries.dtype), (*shape, 1))
    below = c.b.compare("LessOrEqual" if right else "Less", boundaries, column)
    return c.b.sum(c.b.cast(below, dtype), [len(shape)], keepdims=False)


@lower(aten.searchsorted.Tensor)
def searchsorted(
    c: TorchLowering, sorted_sequence: Var, self: Var, out_int32: bool = False, right: bool = False,
    side: str | None = None, sorter: Var | None = None,
) -> Var:  # fmt: skip
    """How many elements of a sorted row lie below each value, or not above it."""
    del out_int32
    if sorter is not None:
        axis = sorted_sequence.rank - 1
        sorted_sequence = c.b.op("GatherElements", [sorted_sequence, sorter], sorter.shape, axis=axis)
    rows, values = c.b.reshape(sorted_sequence, _with_axis(sorted_sequence, -1)), c.b.reshape(self, (*self.shape, 1))
    op_type = "LessOrEqual" if right or side == "right" else "Less"
    below = c.b.compare(op_type, rows, c.b.cast(values, rows.dtype))
    return c.b.sum(c.b.cast(below, c.specs[0][1]), [below.rank - 1], keepdims=False)


def _with_axis(a: Var, before_last: int) -> tuple[int, ...]:
    """The shape with an axis of one put before the last."""
    return (*a.shape[:before_last], 1, *a.shape[before_last:]) if a.rank > 1 else a.shape
