"""Operators that move or view elements."""

from typing import Any

import numpy as np

from planc.torch.lowering import TorchLowering, aten, lower
from planc.torch.rules.positions import placed
from planc.torch.tensors import Expanded
from planc.training.emit.builder import Var
from planc.training.rules.shape import spread


@lower(
    aten.detach.default, aten.alias.default, aten.clone.default, aten.lift_fresh_copy.default,
    aten.contiguous.default, raw=("self",),
)  # fmt: skip
def same(_c: TorchLowering, self: Any, **_: Any) -> Any:
    """The tensor itself: values never change in the traced graph."""
    return self


@lower(aten.copy.default, raw=("src",))
def copy(c: TorchLowering, self: Var, src: Any, non_blocking: bool = False) -> Any:
    """`src` broadcast to self and in its type."""
    del non_blocking
    return c.b.expand(c.b.cast(c.value(src), self.dtype), self.shape)


@lower(aten.view.default, aten._unsafe_view.default, aten.reshape.default, raw=("self",))
def view(c: TorchLowering, self: Any, size: Any = None, shape: Any = None) -> Any:
    """The same elements under the shape that torch resolved."""
    del size, shape
    return c.reshape(self, c.specs[0][0])


@lower(aten.squeeze.dim, aten.squeeze.dims, aten.squeeze.default, aten.unsqueeze.default, raw=("self",))
def squeeze(c: TorchLowering, self: Any, dim: Any = None) -> Any:
    """Axes of length one dropped or added."""
    del dim
    return c.reshape(self, c.specs[0][0])


@lower(aten.permute.default, raw=("self",))
def permute(c: TorchLowering, self: Any, dims: list[int]) -> Any:
    """Axes in another order."""
    return c.permute(self, [d % len(dims) for d in dims])


@lower(aten.transpose.int, raw=("self",))
def transpose(c: TorchLowering, self: Any, dim0: int, dim1: int) -> Any:
    """Two axes exchanged."""
    rank = len(self.shape)
    if not rank:
        return self
    perm = list(range(rank))
    perm[dim0 % rank], perm[dim1 % rank] = dim1 % rank, dim0 % rank
    return c.permute(self, perm)


@lower(aten.t.default, raw=("self",))
def t(c: TorchLowering, self: Any) -> Any:
    """A matrix transposed."""
    return c.permute(self, [1, 0]) if len(self.shape) == 2 else self


@lower(aten.expand.default, raw=("self",))
def expand(c: TorchLowering, self: Any, size: Any, implicit: bool = False) -> Any:
    """Broadcast; nothing is copied until an operator needs the elements."""
    del size, implicit
    shape = c.specs[0][0]
    number = c.number(self)
    if number is not None:
        return c.uniform(number)
    if tuple(self.shape) == shape:
        return self
    source = self.value if isinstance(self, Expanded) else c.value(self)
    lead = len(shape) - source.rank
    return Expanded(c.view(source, (1,) * lead + source.shape) if lead else source, shape)


@lower(aten.cat.default)
def cat(c: TorchLowering, tensors: list[Var], dim: int = 0) -> Var:
    """Concatenation; empty tensors are left out, as torch does."""
    parts = [part for part in tensors if part.shape != (0,)]
    return c.b.concat([c.b.cast(part, c.specs[0][1]) for part in parts], dim % parts[0].rank)


@lower(aten.stack.default)
def stack(c: TorchLowering, tensors: list[Var], dim: int = 0) -> Var:
    """Concatenation along a new axis."""
    at = dim % (tensors[0].rank + 1)
    dtype = c.specs[0][1]
    rows = [c.view(c.b.cast(part, dtype), (*part.shape[:at], 1, *part.shape[at:])) for part in tensors]
    return c.b.concat(rows, at)


@lower(aten.split.Tensor, aten.split_with_sizes.default, raw=("self",))
def split(
    c: TorchLowering, self: Any, split_size: Any = None, split_sizes: Any = None, dim: int = 0
) -> tuple[Var, ...]:
    """Consecutive parts along an axis."""
    del split_size, split_sizes
    whole = c.value(self)
    axis = dim % whole.rank
    if len(c.specs) == 1:
        return (whole,)
    sizes = c.b.ints(shape[axis] for shape, _ in c.specs)
    return c.b.emit("Split", [whole, sizes], list(c.specs), axis=axis)


@lower(aten.unbind.int)
def unbind(c: TorchLowering, self: Var, dim: int = 0) -> tuple[Var, ...]:
    """The parts of length one along an axis, without it."""
    axis = dim % self.rank
    part = (*self.shape[:axis], 1, *self.shape[axis + 1 :])
    if self.shape[axis] == 1:
        return (c.view(self, c.specs[0][0]),)
    specs = [(part, self.dtype)] * self.shape[axis]
    made = c.b.emit("Split", [self, c.b.ints([1] * self.shape[axis])], specs, axis=axis)
    return tuple(c.view(v, c.specs[0][0]) for v in made)


def _range(size: int, start: int | None, end: int | None, step: int) -> tuple[int, int, int]:
    first, last, step = slice(start, end, step).indices(size)
    return first, max(first, last), step


@lower(aten.slice.Tensor, raw=("self",))
def slice_(
    c: TorchLowering, self: Any, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Any:
    """Every step-th element of [start, end) along an axis."""
    shape = tuple(self.shape)
    axis = dim % len(shape)
    taken = _range(shape[axis], start, end, step)
    return self if taken == (0, shape[axis], 1) else c.b.slice(c.value(self), {axis: taken})


@lower(aten.slice_backward.default)
def slice_backward(
    c: TorchLowering, grad_output: Var, input_sizes: list[int], dim: int, start: int, end: int, step: int
) -> Var:
    """The gradient put back among zeros."""
    axis = dim % len(input_sizes)
    first, _, stride = _range(input_sizes[axis], start, end, step)
    return _placed(c, spread(c.b, grad_output, {axis: stride}), axis, first, input_sizes[axis])


def _placed(c: TorchLowering, a: Var, axis: int, first: int, size: int) -> Var:
    """`a` at position `first` of an axis of length `size`, zeros elsewhere."""
    before, after = [0] * a.rank, [0] * a.rank
    before[axis], after[axis] = first, size - first - a.shape[axis]
    return c.b.pad(a, before, after)


@lower(aten.select.int)
def select(c: TorchLowering, self: Var, dim: int, index: int) -> Var:
    """One position of an axis, which disappears."""
    axis = dim % self.rank
    at = index % self.shape[axis]
    return c.view(c.b.slice(self, {axis: (at, at + 1, 1)}), c.specs[0][0])


@lower(aten.select_backward.default)
def select_backward(c: TorchLowering, grad_output: Var, input_sizes: list[int], dim: int, index: int) -> Var:
    """The gradient put back among zeros."""
    axis = dim % len(input_sizes)
    row = c.view(grad_output, (*input_sizes[:axis], 1, *input_sizes[axis + 1 :]))
    return _placed(c, row, axis, index % input_sizes[axis], input_sizes[axis])


@lower(aten.slice_scatter.default)
def slice_scatter(
    c: TorchLowering, self: Var, src: Var, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Var:
    """self with a slice replaced by `src`."""
    axis = dim % self.rank
    first, last, stride = _range(self.shape[axis], start, end, step)
    if stride != 1:
        order = np.arange(self.size).reshape(self.shape)
        return placed(c, self, order[(*[slice(None)] * axis, slice(first, last, stride))], src)
    parts = [c.b.slice(self, {axis: (0, first, 1)})] if first else []
    parts.append(src)
    parts += [c.b.slice(self, {axis: (last, self.shape[axis], 1)})] if last < self.shape[axis] else []
    return c.b.concat(parts, axis)


@lower(aten.select_scatter.default)
def select_scatter(c: TorchLowering, self: Var, src: Var, dim: int, index: int) -> Var:
    """self with one position of an axis replaced by `src`."""
    axis = dim % self.rank
    at = index % self.shape[axis]
    row = c.view(src, (*self.shape[:axis], 1, *self.shape[axis + 1 :]))
    return slice_scatter(c, self, row, axis, at, at + 1)


@lower(aten.constant_pad_nd.default)
def constant_pad(c: TorchLowering, self: Var, pad: list[int], value: float = 0) -> Var:
    """`pad` lists (before, after) from the last axis on; negative amounts crop."""
    before, after = [0] * self.rank, [0] * self.rank
    for i in range(len(pad) // 2):
        before[self.rank - 1 - i], after[self.rank - 1 - i] = pad[2 * i], pad[2 * i + 1]
    if not value or not any(p > 0 for p in pad):
        return c.b.pad(self, before, after)
    fill = c.b.full((), value, self.dtype)
    return c.b.op("Pad", [self, c.b.ints([*before, *after]), fill], c.specs[0][0])


@lower(aten.repeat.default)
def repeat(c: TorchLowering, self: Var, repeats: list[int]) -> Var:
    """Copies side by side along each axis."""
    full = c.view(self, (1,) * (len(repeats) - self.rank) + self.shape)
    return c.b.op("Tile", [full, c.b.ints(repeats)], c.specs[0][0])


@lower(aten.tril.default)
def tril(c: TorchLowering, self: Var, diagonal: int = 0) -> Var:
    """The lower triangle."""
    return c.b.op("Trilu", [self, _scalar(c, diagonal)], self.shape, upper=0)


@lower(aten.triu.default)
def triu(c: TorchLowering, self: Var, diagonal: int = 0) -> Var:
    """The upper triangle."""
    return c.b.op("Trilu", [self, _scalar(c, diagonal)], self.shape, upper=1)


def _scalar(c: TorchLowering, number: int) -> Var:
    return c.b.constant(np.array(number, np.int64))


@lower(aten.flip.default)
def flip(c: TorchLowering, self: Var, dims: list[int]) -> Var:
    """Reversed along each axis of `dims`."""
    for dim in dims:
        axis = dim % self.rank
        self = c.b.op("Gather", [self, c.b.ints(reversed(range(self.shape[axis])))], self.shape, axis=axis)
    return self
