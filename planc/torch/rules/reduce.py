"""Reductions, in the forms that the library's lowering table picks for the device."""

import math
from typing import Any

import numpy as np
import torch
from onnx import TensorProto

from planc.torch.lowering import TorchLowering, aten, lower
from planc.training.emit.builder import Var
from planc.training.rules.reductions import channel_mean, channel_sum, leading_sum


def _axes(self: Var, dim: Any) -> list[int]:
    listed = [dim] if isinstance(dim, int) else list(dim or [])
    return sorted(d % self.rank for d in listed if self.rank) if listed else list(range(self.rank))


def _reduced(c: TorchLowering, op_type: str, a: Var, axes: list[int]) -> Var:
    """`a` reduced over `axes`, in the shape and type torch gives the result."""
    shape, dtype = c.specs[0]
    return c.view(c.b.cast(_form(c, op_type, a, axes), dtype), shape)


def _form(c: TorchLowering, op_type: str, a: Var, axes: list[int]) -> Var:
    """The reduction in the form that is cheapest, with the reduced axes as ones or left out."""
    if not a.rank:
        return c.b.unary("Abs", a) if op_type in ("ReduceL1", "ReduceL2") else a
    if len(axes) == a.rank:
        return c.b.op(op_type, [a], (), keepdims=0)
    if op_type not in ("ReduceSum", "ReduceMean"):
        return c.b.reduce(op_type, a, axes)
    if a.rank > 2 and axes == [0, *range(2, a.rank)]:
        return (channel_sum if op_type == "ReduceSum" else channel_mean)(c.b, c.table, a)
    if op_type == "ReduceSum" and axes == list(range(len(axes))) and math.prod(a.shape[: len(axes)]) > 1:
        return leading_sum(c.b, c.table, a, a.rank - len(axes))
    return c.b.reduce(op_type, a, axes)


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


@lower(aten.any.default, aten.any.dim, aten.any.dims)
def any_(c: TorchLowering, self: Var, dim: Any = None, keepdim: bool = False) -> Var:
    """Whether some element over the given axes is not zero."""
    del keepdim
    return _reduced(c, "ReduceMax", c.b.cast(truth(c, self), TensorProto.INT32), _axes(self, dim))


@lower(aten.all.default, aten.all.dim, aten.all.dims)
def all_(c: TorchLowering, self: Var, dim: Any = None, keepdim: bool = False) -> Var:
    """Whether every element over the given axes is not zero."""
    del keepdim
    return _reduced(c, "ReduceMin", c.b.cast(truth(c, self), TensorProto.INT32), _axes(self, dim))


def truth(c: TorchLowering, a: Var) -> Var:
    """Where `a` is not zero."""
    if a.dtype == TensorProto.BOOL:
        return a
    return c.b.unary("Not", c.b.compare("Equal", a, 0))


@lower(aten.prod.default, aten.prod.dim_int)
def prod(c: TorchLowering, self: Var, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Var:
    """The product over an axis, or of all elements."""
    del keepdim, dtype
    return _reduced(c, "ReduceProd", c.b.cast(self, c.specs[0][1]), _axes(self, dim))


@lower(aten.max.default)
def max_of_all(c: TorchLowering, self: Var) -> Var:
    """The greatest element."""
    return _reduced(c, "ReduceMax", self, _axes(self, None))


@lower(aten.min.default)
def min_of_all(c: TorchLowering, self: Var) -> Var:
    """The least element."""
    return _reduced(c, "ReduceMin", self, _axes(self, None))


_NORMS: dict[float, str] = {1: "ReduceL1", 2: "ReduceL2"}


@lower(aten.linalg_vector_norm.default)
def vector_norm(
    c: TorchLowering, self: Var, ord: float = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> Var:
    """(sum |x| ** ord) ** (1 / ord) over the given axes; of order 0 how many differ from 0, of infinity the extremum."""
    del keepdim, dtype
    axes, a = _axes(self, dim), c.b.wide(c.b.cast(self, c.specs[0][1]))
    if ord in _NORMS:
        return _reduced(c, _NORMS[ord], a, axes)
    if math.isinf(ord):
        return _reduced(c, "ReduceMax" if ord > 0 else "ReduceMin", c.b.unary("Abs", a), axes)
    if ord == 0:
        return _reduced(c, "ReduceSum", c.b.cast(truth(c, a), a.dtype), axes)
    summed = _form(c, "ReduceSum", c.b.pow(c.b.unary("Abs", a), float(ord)), axes)
    return c.view(c.b.pow(summed, 1 / float(ord)), c.specs[0][0])


@lower(aten.max.dim)
def max_along(c: TorchLowering, self: Var, dim: int, keepdim: bool = False) -> tuple[Var, Var]:
    """The maximum along an axis and its position."""
    del keepdim
    return _extreme(c, self, dim, ("ReduceMax", "ArgMax"))


@lower(aten.min.dim)
def min_along(c: TorchLowering, self: Var, dim: int, keepdim: bool = False) -> tuple[Var, Var]:
    """The minimum along an axis and its position."""
    del keepdim
    return _extreme(c, self, dim, ("ReduceMin", "ArgMin"))


def _extreme(c: TorchLowering, a: Var, dim: int, op_types: tuple[str, str]) -> tuple[Var, Var]:
    return _reduced(c, op_types[0], a, _axes(a, dim)), _position(c, op_types[1], a, dim, c.specs[1][0])


def _position(c: TorchLowering, op_type: str, a: Var, dim: int | None, shape: tuple[int, ...]) -> Var:
    if not a.rank:
        return c.b.constant(np.zeros((), np.int64))
    line, axis = (a, dim % a.rank) if dim is not None else (c.view(a, (a.size,)), 0)
    kept = tuple(1 if i == axis else d for i, d in enumerate(line.shape))
    line = c.b.cast(line, TensorProto.INT32) if line.dtype == TensorProto.BOOL else line
    return c.view(c.b.op(op_type, [line], kept, TensorProto.INT64, axis=axis), shape)


@lower(aten.argmax.default)
def argmax(c: TorchLowering, self: Var, dim: int | None = None, keepdim: bool = False) -> Var:
    """The position of the first maximum."""
    del keepdim
    return _position(c, "ArgMax", self, dim, c.specs[0][0])


@lower(aten.argmin.default)
def argmin(c: TorchLowering, self: Var, dim: int | None = None, keepdim: bool = False) -> Var:
    """The position of the first minimum."""
    del keepdim
    return _position(c, "ArgMin", self, dim, c.specs[0][0])


@lower(aten.var.correction, aten.var.dim)
def variance(
    c: TorchLowering, self: Var, dim: Any = None, correction: Any = None, keepdim: bool = False, unbiased: bool = True
) -> Var:
    """The mean squared deviation times n / (n - correction); not a number where that divides by zero."""
    del keepdim
    axes, correction = _axes(self, dim), int(unbiased) if correction is None else correction
    centred = c.b.sub(self, c.b.mean(self, axes))
    count = math.prod(self.shape[axis] for axis in axes)
    scale = count / (count - correction) if count > correction else math.nan
    return c.view(c.b.mul(c.b.mean(c.b.mul(centred, centred), axes), scale), c.specs[0][0])


@lower(aten.var_mean.correction)
def variance_and_mean(
    c: TorchLowering, self: Var, dim: Any = None, correction: Any = None, keepdim: bool = False
) -> tuple[Var, Var]:
    """Both, over the given axes."""
    return variance(c, self, dim, correction, keepdim), _reduced(c, "ReduceMean", self, _axes(self, dim))


@lower(torch.ops.prims.var.default)
def variance_of(c: TorchLowering, inp: Var, dims: Any, correction: float = 1, output_dtype: Any = None) -> Var:
    """The variance in torch's primitive form."""
    del output_dtype
    return variance(c, inp, dims, correction)
