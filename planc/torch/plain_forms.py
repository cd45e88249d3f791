"""Operators with a gradient kernel of their own, in operators that autograd differentiates into core ones."""

from typing import Any

import torch
from torch._decomp import decomposition_table

aten = torch.ops.aten

grid_sampler_2d = decomposition_table[aten.grid_sampler_2d.default]


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
    if padding_idx is not None and padding_idx >= 0:
        kept = (indices != padding_idx).to(weight.dtype)
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
