"""Attention with an added mask of finite numbers that may hide all keys of a query, as `planc::attention` computes it.

Softmax is the same when one number is taken from a whole row, so the highest of a row's bias is taken from it where that
is far from zero: beside it the logarithm of the number of keys, which the gradient needs, would be lost. Where it is so far
that any score is lost beside it (the lowest number of a type), the row's keys with that bias count alike, whatever their
scores.
"""

import math

import torch

from planc.kernels.attention import HIDDEN
from planc.torch.attention import attended

LOST = 1e15
"""Beside a bias so far from zero, scores are lost in float32 and in float64."""

_LOWEST = torch.finfo(torch.float32).min


def attended_anyway(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor, scale: float
) -> torch.Tensor:
    """The attention [B, H, S, D] of softmax(scale Q K' + bias), and its gradients, for a finite bias or one of which each
    row has a finite number.

    In half precision, keys with a row's highest bias beyond `LOST` must be the same for all its queries and heads, or all
    keys of the row: else the gradient of its scores is not that of the written form.
    """
    with torch.no_grad():
        top = bias.amax(-1, keepdim=True)
        finite = (top > -math.inf) & (top < math.inf)
        lost = finite & (top.abs() >= LOST)
        far = finite & (top.abs() > -HIDDEN)
        alike = _LOWEST if q.dtype == torch.float32 else 0.0
        chosen = torch.where(bias == top, alike, -math.inf)
        settled = torch.where(lost, chosen, torch.where(far, bias - top, bias)).to(q.dtype)
    if q.dtype == torch.float32:  # the operator knows these rows by the lowest number
        return attended(q, k, v, settled, scale)
    made = attended(q.masked_fill(lost, 0.0), k, v, settled, scale)
    slope = scale * q @ _covariance(k, v.detach(), bias, top).repeat_interleave(q.shape[1] // k.shape[1], 1)
    return made + torch.where(lost, slope - slope.detach(), torch.zeros((), dtype=q.dtype))


def _covariance(k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor, top: torch.Tensor) -> torch.Tensor:
    """[B, G, D, D] of keys and values over those of a sequence that count alike: what a mean of values changes by with a
    key's score."""
    if bias.dim() == 4 and bias.shape[1] == bias.shape[2] == 1:
        with torch.no_grad():
            weights = (bias == top).to(k.dtype)
            weights = (weights / weights.float().sum(-1, keepdim=True)).to(k.dtype).transpose(-2, -1)
    else:
        weights = torch.full((), 1 / k.shape[2], dtype=k.dtype)
    weighted = k * weights
    means = weighted.sum(2, keepdim=True).transpose(-2, -1) * (v * weights).sum(2, keepdim=True)
    return weighted.transpose(-2, -1) @ v - means
