"""Running sums of exponentials in core operators, with a gradient that keeps its digits at any magnitude."""

from collections.abc import Callable
from typing import Any

import torch

Join = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def logcumsumexp(x: torch.Tensor, dim: int) -> torch.Tensor:
    """The logarithm of the running sums of exponentials along an axis; halves are computed in float32."""
    if not x.dim():
        return x.clone()
    wide = x.float() if x.element_size() < 4 else x
    made: torch.Tensor = _LogCumSumExp.apply(wide, dim)
    return made.to(x.dtype)


class _LogCumSumExp(torch.autograd.Function):  # type: ignore[misc]
    """y = m + log s, with m the running maximum and s the running sum of exp(x - m).

    The gradient of x_i is exp(x_i - y_i) r_i with r_i = g_i + exp(y_i - y_(i+1)) r_(i+1); both exponentials are ratios of
    sums, exp(x_i - m_i) / s_i and exp(m_i - m_(i+1)) s_i / s_(i+1), in which the magnitude of y has cancelled.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, dim: int) -> torch.Tensor:
        top, total = _scan(x, torch.ones_like(x), dim, (-torch.inf, 0.0), _joined_sums)
        ctx.dim = dim
        ctx.save_for_backward(x, top, total)
        return top + total.log()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        (x, top, total), dim = ctx.saved_tensors, ctx.dim
        size = x.shape[dim]
        before, after = ((v.narrow(dim, 0, size - 1), v.narrow(dim, 1, size - 1)) for v in (top, total))
        kept = _ratio(before[0], before[1]) * after[0] / after[1]
        share = torch.cat([kept, torch.zeros_like(x.narrow(dim, 0, 1))], dim).flip(dim)
        _, found = _scan(share, grad.flip(dim), dim, (1.0, 0.0), _joined_lines)
        return _ratio(x, top) / total * found.flip(dim), None


def _ratio(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """exp(low - high), 1 for equal infinities."""
    return torch.where(low == high, 1.0, (low - high).exp())


def _joined_sums(
    top: torch.Tensor, total: torch.Tensor, later_top: torch.Tensor, later_total: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Two sums of exponentials, each a maximum and the sum relative to it."""
    joined = torch.maximum(top, later_top)
    return joined, total * _ratio(top, joined) + later_total * _ratio(later_top, joined)


def _joined_lines(
    slope: torch.Tensor, start: torch.Tensor, later_slope: torch.Tensor, later_start: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Two linear functions, the later one of the earlier one's result."""
    return slope * later_slope, later_slope * start + later_start


def _scan(
    a: torch.Tensor, b: torch.Tensor, dim: int, neutral: tuple[float, float], join: Join
) -> tuple[torch.Tensor, torch.Tensor]:
    """All prefixes of pairs joined in log2(n) steps (Hillis and Steele, Data parallel algorithms, 1986)."""
    distance = 1
    while distance < a.shape[dim]:
        a, b = join(_shifted(a, dim, distance, neutral[0]), _shifted(b, dim, distance, neutral[1]), a, b)
        distance *= 2
    return a, b


def _shifted(a: torch.Tensor, dim: int, distance: int, number: float) -> torch.Tensor:
    head = torch.full_like(a.narrow(dim, 0, distance), number)
    return torch.cat([head, a.narrow(dim, 0, a.shape[dim] - distance)], dim)
