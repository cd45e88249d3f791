"""Running sums, products and extrema, sorting and selection along an axis."""

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import TensorProto

from planc.torch.lowering import TorchLowering, aten, lower
from planc.training.emit.builder import Var

Join = Callable[[list[Var], list[Var]], list[Var]]


def _scan(c: TorchLowering, parts: list[Var], axis: int, starts: list[float], join: Join) -> list[Var]:
    """All prefixes combined in log2(n) steps (Hillis and Steele, 1986); `starts` are neutral elements."""
    size, distance = parts[0].shape[axis], 1
    while distance < size:
        earlier = [_shifted(c, a, axis, distance, n) for a, n in zip(parts, starts, strict=True)]
        parts = join(earlier, parts)
        distance *= 2
    return parts


def _shifted(c: TorchLowering, a: Var, axis: int, distance: int, number: float) -> Var:
    head = (*a.shape[:axis], distance, *a.shape[axis + 1 :])
    filled = c.b.full((1,) * a.rank, number, a.dtype)
    return c.b.concat([c.b.expand(filled, head), c.b.slice(a, {axis: (0, a.shape[axis] - distance, 1)})], axis)


@lower(aten.cumsum.default)
def cumsum(c: TorchLowering, self: Var, dim: int, dtype: Any = None) -> Var:
    """Running sums along an axis."""
    del dtype
    a = c.b.cast(self, c.specs[0][1])
    axis = c.b.constant(np.array(dim % a.rank, np.int64)) if a.rank else None
    return c.b.op("CumSum", [a, axis], a.shape) if axis and a.size else a


@lower(aten.cumprod.default)
def cumprod(c: TorchLowering, self: Var, dim: int, dtype: Any = None) -> Var:
    """Running products along an axis."""
    del dtype
    a = c.b.cast(self, c.specs[0][1])
    if not a.rank:
        return a
    return _scan(c, [a], dim % a.rank, [1.0], lambda before, now: [c.b.mul(before[0], now[0])])[0]


def _running_extremum(c: TorchLowering, a: Var, dim: int, comparison: str, worst: float) -> tuple[Var, Var]:
    """Running extrema and where they last were."""
    at = c.b.constant(np.zeros((), np.int64))
    if not a.rank:
        return a, at
    axis = dim % a.rank
    column = np.arange(a.shape[axis]).reshape([-1 if i == axis else 1 for i in range(a.rank)])
    numbers = c.b.expand(c.b.constant(column.astype(np.int64)), a.shape)

    def join(before: list[Var], now: list[Var]) -> list[Var]:
        keep = c.b.compare(comparison, now[0], before[0])
        return [c.b.where(keep, new, old) for new, old in zip(now, before, strict=True)]

    values, places = _scan(c, [a, numbers], axis, [worst, 0.0], join)
    return values, places


@lower(aten.cummax.default)
def cummax(c: TorchLowering, self: Var, dim: int) -> tuple[Var, Var]:
    """Running maxima and their positions."""
    return _running_extremum(c, self, dim, "GreaterOrEqual", -float("inf"))


@lower(aten.cummin.default)
def cummin(c: TorchLowering, self: Var, dim: int) -> tuple[Var, Var]:
    """Running minima and their positions."""
    return _running_extremum(c, self, dim, "LessOrEqual", float("inf"))


@lower(aten.topk.default)
def topk(
    c: TorchLowering, self: Var, k: int, dim: int = -1, largest: bool = True, sorted: bool = True
) -> tuple[Var, ...]:
    """The k largest or smallest elements along an axis and their positions; of equal ones the first."""
    del sorted
    if not self.rank:
        return self, c.b.constant(np.zeros((), np.int64))
    a = c.b.cast(self, TensorProto.INT32) if self.dtype in _UNSORTED else self
    specs = [(shape, a.dtype if i == 0 else dtype) for i, (shape, dtype) in enumerate(c.specs)]
    values, at = c.b.emit("TopK", [a, c.b.ints([k])], specs, axis=dim % a.rank, largest=int(largest))
    return c.b.cast(values, self.dtype), at


_UNSORTED = frozenset({TensorProto.BOOL, TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16})
"""Types that ONNX Runtime's TopK does not take."""


@lower(aten.sort.default, aten.sort.stable)
def sort(
    c: TorchLowering, self: Var, dim: int = -1, descending: bool = False, stable: bool | None = None
) -> tuple[Var, ...]:
    """All elements in order along an axis, and where they were; equal ones keep their order."""
    del stable
    return topk(c, self, self.shape[dim % self.rank] if self.rank else 1, dim, descending)


def _kth(c: TorchLowering, a: Var, k: int, axis: int) -> tuple[Var, Var]:
    """The k-th smallest along an axis, k from one, and where it is."""
    part = (*a.shape[:axis], k, *a.shape[axis + 1 :])
    specs = [(part, a.dtype), (part, TensorProto.INT64)]
    values, at = c.b.emit("TopK", [a, c.b.ints([k])], specs, axis=axis, largest=0)
    last = {axis: (k - 1, k, 1)}
    return c.b.slice(values, last), c.b.slice(at, last)


@lower(aten.kthvalue.default)
def kthvalue(c: TorchLowering, self: Var, k: int, dim: int = -1, keepdim: bool = False) -> tuple[Var, ...]:
    """The k-th smallest along an axis."""
    del keepdim
    if not self.rank:
        return self, c.b.constant(np.zeros((), np.int64))
    return tuple(c.view(v, s[0]) for v, s in zip(_kth(c, self, k, dim % self.rank), c.specs, strict=True))


@lower(aten.median.dim)
def median_along(c: TorchLowering, self: Var, dim: int, keepdim: bool = False) -> tuple[Var, ...]:
    """The lower median along an axis."""
    return kthvalue(c, self, (self.shape[dim % self.rank] + 1) // 2 if self.rank else 1, dim, keepdim)


@lower(aten.median.default)
def median(c: TorchLowering, self: Var) -> Var:
    """The lower median of all elements."""
    return c.view(_kth(c, c.view(self, (self.size,)), (self.size + 1) // 2, 0)[0], ())
