"""Indexing by tensors: self[..., i, j, ...], and its counterpart that assigns or adds.

Several indices are one flat index over the axes they name, so that a single Gather or scatter is needed. Equal
positions are resolved in a fixed order: sums by the library's repeatable form, assignments by the last one.
"""

from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
import torch
from onnx import TensorProto, helper

from planc.errors import ModelError
from planc.torch.lowering import TorchLowering, aten, lower
from planc.torch.tensors import Constant
from planc.training.apply import forward_node, gradients_of
from planc.training.emit.builder import Shape, Var


@dataclass(frozen=True)
class Places:
    """Positions in a tensor of `shape`: `index` into `axes` taken as one, of any shape.

    `front` tells that the index's axes lead the result; else they stand where the first of `axes` stood.
    """

    shape: Shape
    axes: tuple[int, ...]
    index: Var
    front: bool

    @property
    def rest(self) -> tuple[int, ...]:
        return tuple(axis for axis in range(len(self.shape)) if axis not in self.axes)

    @property
    def order(self) -> tuple[int, ...]:
        """The tensor's axes with the indexed ones side by side, before the first that follows them."""
        before = () if self.front else tuple(axis for axis in self.rest if axis < self.axes[0])
        return (*before, *self.axes, *(axis for axis in self.rest if axis not in before))

    @property
    def at(self) -> int:
        """Where the joined axis stands."""
        return self.order.index(self.axes[0])

    @property
    def joined(self) -> Shape:
        """The shape with the indexed axes as one."""
        sizes = [self.shape[axis] for axis in self.order]
        count = len(self.axes)
        return (*sizes[: self.at], prod(sizes[self.at : self.at + count]), *sizes[self.at + count :])

    @property
    def result(self) -> Shape:
        return (*self.joined[: self.at], *self.index.shape, *self.joined[self.at + 1 :])


def places(c: TorchLowering, shape: Shape, indices: list[Any]) -> Places:
    """The positions that integer `indices`, None for a whole axis, name in a tensor of `shape`."""
    given = [(axis, index) for axis, index in enumerate(indices) if index is not None]
    axes = tuple(axis for axis, _ in given)
    terms: list[Var | int | np.ndarray[Any, Any]] = []
    stride = prod(shape[axis] for axis in axes)
    for axis, index in given:
        stride //= shape[axis]
        terms.append(_term(c, index, shape[axis], stride))
    fixed = [t for t in terms if isinstance(t, np.ndarray)]
    found: Var | None = c.b.constant(np.asarray(sum(fixed), np.int64)) if fixed else None
    for term in terms:
        if isinstance(term, Var):
            found = term if found is None else c.b.add(found, term)
    if found is None:
        raise ModelError("indexing needs at least one tensor")
    front = any(b != a + 1 for a, b in pairwise(axes))
    return Places(shape, axes, found, front)


def _term(c: TorchLowering, index: Any, size: int, stride: int) -> Any:
    """What one index adds to the flat one; negative positions count from the end."""
    if isinstance(index, Constant):
        numbers = index.tensor.detach().cpu().long().numpy()
        return (numbers % size) * stride
    source = c.value(index)
    if source.dtype == TensorProto.BOOL:
        raise ModelError("indexing by a mask has as many results as the mask has ones; use torch.where")
    c.index_ranges[source.name] = min(size, c.index_ranges.get(source.name, size))
    wide = c.b.cast(source, TensorProto.INT64)
    wrapped = c.b.where(c.b.compare("Less", wide, 0), c.b.add(wide, size), wide)
    return c.b.mul(wrapped, stride) if stride != 1 else wrapped


def taken(c: TorchLowering, a: Var, at: Places) -> Var:
    """The elements of `a` at the positions."""
    joined = c.b.reshape(c.b.transpose(a, at.order), at.joined)
    return c.b.op("Gather", [joined, at.index], at.result, axis=at.at)


def added(c: TorchLowering, at: Places, values: Var) -> Var:
    """Zeros of the positions' tensor, plus `values` at the positions."""
    full = c.b.expand(values, at.result)
    node = forward_node(c.b, c.table, "Gather", [Var("", at.joined, values.dtype), at.index], [full], axis=at.at)
    return _back(c, c.b.cast(gradients_of(c.b, node, [full], [0])[0], values.dtype), at)


def _back(c: TorchLowering, joined: Var, at: Places) -> Var:
    split = c.b.reshape(joined, [at.shape[axis] for axis in at.order])
    return c.b.transpose(split, [at.order.index(axis) for axis in range(len(at.order))])


def assigned(c: TorchLowering, a: Var, at: Places, values: Var) -> Var:
    """`a` with `values` at the positions; of equal positions the last one wins, as torch does on the CPU.

    The number of the last value of every position is found by a scatter of maxima, which no order can change.
    """
    b, rows = c.b, at.joined[at.at]
    count = at.index.size
    if not count:
        return a
    flat = b.reshape(at.index, (count,))
    numbers = b.constant(np.arange(count, dtype=np.int64))
    none = b.constant(np.full((rows,), -1, np.int64))
    last = b.op("ScatterElements", [none, flat, numbers], (rows,), axis=0, reduction="max")
    base = b.reshape(b.transpose(a, at.order), at.joined)
    full = b.reshape(b.expand(values, at.result), (*at.joined[: at.at], count, *at.joined[at.at + 1 :]))
    chosen = b.op("Max", [last, b.constant(np.zeros((1,), np.int64))], (rows,))
    moved = b.op("Gather", [full, chosen], at.joined, axis=at.at)
    column = b.reshape(last, (rows, *[1] * (len(at.joined) - at.at - 1)))
    return _back(c, b.where(b.compare("Less", column, 0), base, moved), at)


@lower(aten.index.Tensor, aten._unsafe_index.Tensor, raw=("indices",))
def index(c: TorchLowering, self: Var, indices: list[Any]) -> Var:
    """self[indices] by integer tensors."""
    sole = [i for i in indices if i is not None]
    if len(sole) == 1 and isinstance(sole[0], Constant):
        axis = next(axis for axis, i in enumerate(indices) if i is not None)
        if sole[0].tensor.dtype is torch.bool:
            raise ModelError("indexing by a mask has as many results as the mask has ones; use torch.where")
        return c.b.op("Gather", [self, c.value(sole[0])], c.specs[0][0], axis=axis)
    return taken(c, self, places(c, self.shape, indices))


@lower(aten.index_put.default, aten._unsafe_index_put.default, raw=("self", "indices", "values"))
def index_put(c: TorchLowering, self: Any, indices: list[Any], values: Any, accumulate: bool = False) -> Var:
    """Values added or assigned at the positions of integer tensors, or one value where a mask is true."""
    shape, dtype = c.specs[0]
    mask = indices[0] if len(indices) == 1 else None
    if mask is not None and c.value(mask).dtype == TensorProto.BOOL:
        return _where_masked(c, c.value(self), c.value(mask), c.value(values), accumulate)
    at, new = places(c, shape, indices), c.b.cast(c.value(values), dtype)
    if not accumulate:
        return assigned(c, c.value(self), at, new)
    found = added(c, at, new)
    return found if c.number(self) == 0 else c.b.add(c.value(self), found)


def _where_masked(c: TorchLowering, a: Var, mask: Var, values: Var, accumulate: bool) -> Var:
    if values.size != 1 and values.shape[: 1 if values.rank > a.rank - mask.rank else 0] not in ((), (1,)):
        raise ModelError("assignment of several values by a mask depends on how many ones it has; use torch.where")
    full = c.b.reshape(mask, (*mask.shape, *[1] * (a.rank - mask.rank)))
    new = c.b.add(a, values) if accumulate else values
    return c.b.expand(c.b.where(full, c.b.cast(new, a.dtype), a), a.shape)


@lower(aten.put.default)
def put(c: TorchLowering, self: Var, index: Var, source: Var, accumulate: bool = False) -> Var:
    """Values at positions among all elements in order."""
    at = places(c, (self.size,), [c.b.reshape(index, (index.size,))])
    line, values = c.b.reshape(self, (self.size,)), c.b.reshape(source, (source.size,))
    made = c.b.add(line, added(c, at, values)) if accumulate else assigned(c, line, at, values)
    return c.b.reshape(made, self.shape)


@lower(aten._unsafe_masked_index.default, raw=("indices", "fill"))
def masked_index(c: TorchLowering, self: Var, mask: Var, indices: list[Any], fill: Any) -> Var:
    """self[indices] where `mask`, else `fill`; indices outside the mask may lie anywhere."""
    found = taken(
        c, self, places(c, self.shape, [_clamped(c, i, d) for i, d in zip(indices, self.shape, strict=False)])
    )
    number = c.number(fill)
    return c.b.where(mask, found, float(number if number is not None else 0))


@lower(aten._unsafe_masked_index_put_accumulate.default, raw=("indices",))
def masked_index_put(c: TorchLowering, self: Var, mask: Var, indices: list[Any], values: Var) -> Var:
    """Values added at the positions where `mask`."""
    at = places(c, self.shape, [_clamped(c, i, d) for i, d in zip(indices, self.shape, strict=False)])
    return c.b.add(self, added(c, at, c.b.where(mask, values, 0.0)))


def _clamped(c: TorchLowering, index: Any, size: int) -> Any:
    if index is None:
        return None
    if isinstance(index, Constant):
        return Constant(index.tensor.clamp(-size, size - 1))
    a = c.value(index)
    bounds = [c.b.constant(np.array(v, helper.tensor_dtype_to_np_dtype(a.dtype))) for v in (-size, size - 1)]
    return c.b.op("Clip", [a, *bounds], a.shape)


def picked(c: TorchLowering, a: Var, flat: np.ndarray[Any, Any]) -> Var:
    """Elements of `a` at constant positions of its elements in order, in the shape of `flat`."""
    line = c.b.reshape(a, (a.size,))
    return c.b.op("Gather", [line, c.b.constant(np.array(flat, np.int64, order="C"))], flat.shape, axis=0)


def placed(c: TorchLowering, a: Var, flat: np.ndarray[Any, Any], values: Var) -> Var:
    """`a` with `values` at constant, distinct positions of its elements in order."""
    index = c.b.constant(flat.reshape(-1, 1).astype(np.int64))
    line, rows = c.b.reshape(a, (a.size,)), c.b.reshape(values, (values.size,))
    return c.b.reshape(c.b.op("ScatterND", [line, index, rows], (a.size,)), a.shape)


def _diagonal(shape: Shape, offset: int, dim1: int, dim2: int) -> np.ndarray[Any, Any]:
    order = np.arange(prod(shape)).reshape(shape)
    return np.asarray(np.diagonal(order, offset, dim1, dim2))


@lower(aten.diagonal.default, aten.diagonal_copy.default)
def diagonal(c: TorchLowering, self: Var, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Var:
    """The elements whose positions along two axes differ by `offset`, as the last axis."""
    return picked(c, self, _diagonal(self.shape, offset, dim1, dim2))


@lower(aten.diagonal_scatter.default)
def diagonal_scatter(c: TorchLowering, self: Var, src: Var, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Var:
    """self with its diagonal replaced."""
    return placed(c, self, _diagonal(self.shape, offset, dim1, dim2), src)


@lower(aten.diagonal_backward.default)
def diagonal_backward(
    c: TorchLowering, grad_output: Var, input_sizes: list[int], offset: int, dim1: int, dim2: int
) -> Var:
    """The gradient on the diagonal, zeros elsewhere."""
    shape = tuple(input_sizes)
    return placed(c, c.b.zeros(shape, grad_output.dtype), _diagonal(shape, offset, dim1, dim2), grad_output)


def _strided(c: TorchLowering, a: Var, size: list[int], stride: list[int], offset: int | None) -> np.ndarray[Any, Any]:
    source = c.node.args[0].meta["val"]
    if not source.is_contiguous() or source.storage_offset():
        raise ModelError("as_strided of a view reads memory, not elements; index the tensor instead")
    axes = np.ix_(*(np.arange(n) for n in size)) if size else ()
    flat = np.asarray(sum((i * s for i, s in zip(axes, stride, strict=True)), np.array(offset or 0)))
    flat = np.broadcast_to(flat, tuple(size))
    if flat.size and int(flat.max()) >= a.size:
        raise ModelError("as_strided reads beyond its tensor")
    return flat


@lower(aten.as_strided.default, aten.as_strided_copy.default)
def as_strided(
    c: TorchLowering, self: Var, size: list[int], stride: list[int], storage_offset: int | None = None
) -> Var:
    """Elements at computed places of a contiguous tensor."""
    return picked(c, self, _strided(c, self, size, stride, storage_offset))


@lower(aten.as_strided_scatter.default)
def as_strided_scatter(
    c: TorchLowering, self: Var, src: Var, size: list[int], stride: list[int], storage_offset: int | None = None
) -> Var:  # fmt: skip
    """Elements replaced at computed, distinct places of a contiguous tensor."""
    flat = _strided(c, self, size, stride, storage_offset)
    if len(np.unique(flat)) != flat.size:
        raise ModelError("as_strided_scatter to overlapping places has no defined result")
    return placed(c, self, flat, src)
