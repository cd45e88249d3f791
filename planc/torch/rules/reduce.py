"""Reductions, in the forms that the library's lowering table picks for the device."""

import math
from typing import Any

from onnx import TensorProto

from planc.errors import ModelError
from planc.torch.lowering import TorchLowering, aten, lower
from planc.training.emit.builder import Var
from planc.training.rules.reductions import channel_mean, channel_sum, leading_sum


def _axes(self: Var, dim: Any) -> list[int]:
    listed = [dim] if isinstance(dim, int) else list(dim or [])
    return sorted(d % self.rank for d in listed) if listed else list(range(self.rank))


def _reduced(c: TorchLowering, op_type: str, a: Var, axes: list[int]) -> Var:
    """`a` reduced over `axes`, in the shape torch gives the result."""
    shape = c.specs[0][0]
    if len(axes) == a.rank:
        return c.view(c.b.op(op_type, [a], (), keepdims=0), shape)
    if op_type != "ReduceSum" and op_type != "ReduceMean":
        return c.view(c.b.reduce(op_type, a, axes), shape)
    whole_channels = a.rank > 2 and axes == [0, *range(2, a.rank)]
    if whole_channels:
        form = channel_sum if op_type == "ReduceSum" else channel_mean
        return c.view(form(c.b, c.table, a), shape)
    if op_type == "ReduceSum" and axes == list(range(len(axes))) and math.prod(a.shape[: len(axes)]) > 1:
        return c.view(leading_sum(c.b, c.table, a, a.rank - len(axes)), shape)
    return c.view(c.b.reduce(op_type, a, axes), shape)


@lower(aten.sum.dim_IntList, aten.sum.default)
def sum_(c: TorchLowering, self: Var, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Var:
    """The sum over the given axes, over all where none is given."""
    del keepdim, dtype
    return _reduced(c, "ReduceSum", c.b.cast(self, c.specs[0][1]), _axes(self, dim))


@lower(aten.mean.dim, aten.mean.default)
def mean(c: TorchLowering, self: Var, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Var:
    """The mean over the given axes, over all where none is given."""
    del keepdim, dtype
    return _reduced(c, "ReduceMean", c.b.cast(self, c.specs[0][1]), _axes(self, dim))


@lower(aten.amax.default)
def amax(c: TorchLowering, self: Var, dim: Any = (), keepdim: bool = False) -> Var:
    """The maximum over the given axes."""
    del keepdim
    return _reduced(c, "ReduceMax", self, _axes(self, dim))


@lower(aten.amin.default)
def amin(c: TorchLowering, self: Var, dim: Any = (), keepdim: bool = False) -> Var:
    """The minimum over the given axes."""
    del keepdim
    return _reduced(c, "ReduceMin", self, _axes(self, dim))


_NORMS: dict[float, str] = {1: "ReduceL1", 2: "ReduceL2"}


@lower(aten.linalg_vector_norm.default)
def vector_norm(
    c: TorchLowering, self: Var, ord: float = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> Var:
    """The norm of order 1, 2 or infinity over the given axes."""
    del keepdim, dtype
    if ord == math.inf:
        return _reduced(c, "ReduceMax", c.b.unary("Abs", self), _axes(self, dim))
    if ord not in _NORMS:
        raise ModelError(f"vector norms of order {ord} have no lowering to ONNX")
    return _reduced(c, _NORMS[ord], self, _axes(self, dim))


@lower(aten.max.dim)
def max_along(c: TorchLowering, self: Var, dim: int, keepdim: bool = False) -> tuple[Var, Var]:
    """The maximum along an axis and its position."""
    return _extreme(c, self, dim % self.rank, keepdim, ("ReduceMax", "ArgMax"))


@lower(aten.min.dim)
def min_along(c: TorchLowering, self: Var, dim: int, keepdim: bool = False) -> tuple[Var, Var]:
    """The minimum along an axis and its position."""
    return _extreme(c, self, dim % self.rank, keepdim, ("ReduceMin", "ArgMin"))


def _extreme(c: TorchLowering, a: Var, axis: int, keepdim: bool, op_types: tuple[str, str]) -> tuple[Var, Var]:
    shape = tuple(1 if i == axis else d for i, d in enumerate(a.shape) if keepdim or i != axis)
    value = c.b.reduce(op_types[0], a, [axis], keepdims=keepdim)
    return value, c.b.op(op_types[1], [a], shape, TensorProto.INT64, axis=axis, keepdims=int(keepdim))


@lower(aten.topk.default)
def topk(
    c: TorchLowering, self: Var, k: int, dim: int = -1, largest: bool = True, sorted: bool = True
) -> tuple[Var, ...]:
    """The k largest or smallest elements along an axis and their positions."""
    del sorted
    return c.b.emit("TopK", [self, c.b.ints([k])], list(c.specs), axis=dim % self.rank, largest=int(largest))


@lower(aten.sort.default)
def sort(c: TorchLowering, self: Var, dim: int = -1, descending: bool = False) -> tuple[Var, ...]:
    """All elements in order along an axis, and where they were."""
    return topk(c, self, self.shape[dim % self.rank], dim, descending)


@lower(aten.var.correction)
def variance(c: TorchLowering, self: Var, dim: Any = None, correction: Any = None, keepdim: bool = False) -> Var:
    """The mean squared deviation times n / (n - correction)."""
    del keepdim
    axes = _axes(self, dim)
    centred = c.b.sub(self, c.b.mean(self, axes))
    count = math.prod(self.shape[axis] for axis in axes)
    scale = count / (count - (1 if correction is None else correction))
    return c.view(c.b.mul(c.b.mean(c.b.mul(centred, centred), axes), scale), c.specs[0][0])


@lower(aten.argmax.default)
def argmax(c: TorchLowering, self: Var, dim: int | None = None, keepdim: bool = False) -> Var:
    """The position of the maximum."""
    a, axis = (self, dim % self.rank) if dim is not None else (c.view(self, (self.size,)), 0)
    found = c.b.op("ArgMax", [a], tuple(1 if i == axis else d for i, d in enumerate(a.shape)), c.specs[0][1], axis=axis)
    del keepdim
    return c.view(found, c.specs[0][0])
