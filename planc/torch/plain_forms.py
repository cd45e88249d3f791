"""Operators with a gradient kernel of their own, in operators that autograd differentiates into core ones."""

import itertools
from typing import Any

import torch
from torch._decomp import decomposition_table

aten = torch.ops.aten

grid_sampler_2d = decomposition_table[aten.grid_sampler_2d.default]


def bilinear(a: torch.Tensor, b: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """y_o = a^T W_o b, a [..., I], b [..., J], weight [O, I, J]: one product with a, a weighted sum with b."""
    made = (torch.einsum("...i,oij->...oj", a, weight) * b.unsqueeze(-2)).sum(-1)
    return made if bias is None else made + bias


def grid_sampler_3d(x: torch.Tensor, grid: torch.Tensor, mode: int, padding: int, align: bool) -> torch.Tensor:
    """X [N, C, D, H, W] at grid [N, D', H', W', 3]; modes 0 linear, 1 nearest; padding 0 zeros, 1 border, 2 reflection."""
    n, channels, *sizes = x.shape
    taps = []
    for axis, size in enumerate(sizes):
        at = _brought_inside(_position(grid[..., 2 - axis], size, align), size, padding, align)
        low = at.floor() if mode == 0 else at.round()
        places = [(low, 1 - (at - low)), (low + 1, at - low)] if mode == 0 else [(low, None)]
        taps.append([(_whole(p, size), w, (p >= 0) & (p < size)) for p, w in places])
    flat, found = x.flatten(2), x.new_zeros(())
    for choice in itertools.product(*taps):
        index, weight = choice[0][0], x.new_ones(())
        for (place, _, _), size in zip(choice[1:], sizes[1:], strict=True):
            index = index * size + place
        for _, share, within in choice:
            weight = weight * within.to(x.dtype) * (1.0 if share is None else share)
        rows = index.reshape(n, 1, -1).expand(n, channels, -1)
        found = found + flat.gather(2, rows) * weight.reshape(n, 1, -1)
    return found.reshape(n, channels, *grid.shape[1:4])


def _position(grid: torch.Tensor, size: int, align: bool) -> torch.Tensor:
    return (grid + 1) * ((size - 1) / 2) if align else ((grid + 1) * size - 1) / 2


def _brought_inside(at: torch.Tensor, size: int, padding: int, align: bool) -> torch.Tensor:
    """Positions by border or reflection."""
    if padding == 2:
        low, span = (0.0, size - 1.0) if align else (-0.5, float(size))
        if span == 0:
            return torch.zeros_like(at)
        distance = (at - low).abs()
        flips = torch.floor(distance / span)
        rest = distance - flips * span
        at = torch.where(flips % 2 == 0, rest + low, span - rest + low)
    return at.clamp(0, size - 1) if padding else at


def _whole(at: torch.Tensor, size: int) -> torch.Tensor:
    return at.detach().clamp(0, size - 1).to(torch.int64)


def cdist(x1: torch.Tensor, x2: torch.Tensor, p: float, _mode: int | None = None) -> torch.Tensor:
    """Distances of order p between the rows of x1 [..., P, M] and x2 [..., R, M]."""
    return torch.linalg.vector_norm(x1.unsqueeze(-2) - x2.unsqueeze(-3), p, -1)


def pdist(x: torch.Tensor, p: float = 2.0) -> torch.Tensor:
    """Distances of order p between all pairs of rows."""
    i, j = torch.triu_indices(x.shape[0], x.shape[0], 1)
    return torch.linalg.vector_norm(x[i] - x[j], p, -1)


def embedding_bag(
    weight: torch.Tensor, indices: torch.Tensor, offsets: torch.Tensor, scale_grad_by_freq: bool = False, mode: int = 0,
    sparse: bool = False, per_sample_weights: torch.Tensor | None = None, include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Any:  # fmt: skip
    """(sums, means or maxima of the rows in each bag, ...): bags begin at `offsets`; only the first result is of use."""
    del scale_grad_by_freq, sparse
    starts = offsets[:-1] if include_last_offset else offsets
    bags, count = starts.shape[0], indices.shape[0]
    bag = (torch.arange(count, device=indices.device)[:, None] >= starts[None, :]).sum(1) - 1
    rows = weight[indices]
    if per_sample_weights is not None:
        rows = rows * per_sample_weights[:, None]
    kept = torch.ones_like(indices, dtype=weight.dtype)
    if padding_idx is not None:
        kept = (indices != padding_idx % weight.shape[0]).to(weight.dtype)
    sizes = weight.new_zeros(bags).index_add(0, bag, kept)
    if mode == 2:
        where = bag[:, None].expand_as(rows)
        lowest = torch.where(kept[:, None] > 0, rows, torch.full_like(rows, -torch.inf))
        made = weight.new_full((bags, weight.shape[1]), -torch.inf).scatter_reduce(0, where, lowest, "amax")
        made = torch.where(sizes[:, None] > 0, made, torch.zeros_like(made))
    else:
        made = weight.new_zeros(bags, weight.shape[1]).index_add(0, bag, rows * kept[:, None])
        if mode == 1:
            made = made / sizes.clamp(min=1)[:, None]
    return made, bag, sizes.to(indices.dtype), offsets


def embedding_bag_kernel(
    weight: torch.Tensor, indices: torch.Tensor, offsets: torch.Tensor, scale_grad_by_freq: bool = False, mode: int = 0,
    sparse: bool = False, per_sample_weights: torch.Tensor | None = None, include_last_offset: bool = False,
    padding_idx: int = -1,
) -> Any:  # fmt: skip
    """The same called by the name of its kernel, where -1 stands for no padding."""
    padding = padding_idx if padding_idx >= 0 else None
    settings = (scale_grad_by_freq, mode, sparse, per_sample_weights, include_last_offset, padding)
    return embedding_bag(weight, indices, offsets, *settings)


def adaptive_max_pool(x: torch.Tensor, output_size: list[int]) -> Any:
    """(maxima of torch's adaptive windows, their positions within the plane), over the last axes."""
    dims = len(output_size)
    sizes = x.shape[-dims:]
    if dims == 2 and x.dim() == 4 and all(size % out == 0 for size, out in zip(sizes, output_size, strict=True)):
        return aten.max_pool2d_with_indices.default(x, [s // o for s, o in zip(sizes, output_size, strict=True)])
    columns = [_windows(size, out) for size, out in zip(sizes, output_size, strict=True)]
    shape = [list(c.shape) for c in columns]
    index = [
        c.reshape([*[1] * i, s[0], *[1] * (dims - 1), s[1], *[1] * (dims - 1 - i)])
        for i, (c, s) in enumerate(zip(columns, shape, strict=True))
    ]
    flat = index[0]
    for size, part in zip(sizes[1:], index[1:], strict=True):
        flat = flat * size + part
    flat = flat.reshape(*output_size, -1)
    values, at = x.flatten(-dims)[..., flat].max(-1)
    return values, flat.expand(*at.shape, -1).gather(-1, at[..., None])[..., 0]


def _windows(size: int, out: int) -> torch.Tensor:
    """[out, longest]: the positions of each adaptive window, the last one repeated where a window is shorter."""
    ranges = [range(i * size // out, -(-(i + 1) * size // out)) for i in range(out)]
    longest = max(len(r) for r in ranges)
    return torch.tensor([[min(r.start + k, r.stop - 1) for k in range(longest)] for r in ranges])


class _FakeQuantized(torch.autograd.Function):  # type: ignore[misc]
    """Rounded to one of so many steps; the gradient passes where none of the ends cut off."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scale: Any, zero: Any, low: int, high: int) -> torch.Tensor:
        steps = torch.round(x * (1.0 / scale)) + zero
        ctx.save_for_backward((steps >= low) & (steps <= high))
        return (steps.clamp(low, high) - zero) * scale

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        (inside,) = ctx.saved_tensors
        return torch.where(inside, grad, 0.0), None, None, None, None


def fake_quantized(x: torch.Tensor, scale: Any, zero: Any, low: int, high: int) -> torch.Tensor:
    """X in the steps of an integer type: `scale` and `zero` are numbers, or tensors of one."""
    made: torch.Tensor = _FakeQuantized.apply(x, scale, zero, low, high)
    return made


def fake_quantized_channels(
    x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, axis: int, low: int, high: int
) -> torch.Tensor:
    """The same with a scale for each place on an axis."""
    shape = [-1 if a == axis else 1 for a in range(x.dim())]
    return fake_quantized(x, scale.reshape(shape), zero.reshape(shape), low, high)
