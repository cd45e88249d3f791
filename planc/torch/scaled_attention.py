"""torch's scaled_dot_product_attention in a traced step: in plain products, or whole where planc has a kernel for it."""

import math

import torch

from planc.torch.attention import Taken, attended, fits
from planc.torch.hidden_rows import attended_anyway
from planc.torch.written_attention import node_of
from planc.torch.written_masks import constant_of, hides_some_query

aten = torch.ops.aten


def plain_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None = None, dropout: float = 0.0,
    causal: bool = False, *, scale: float | None = None, enable_gqa: bool = False,
) -> torch.Tensor:  # fmt: skip
    """softmax(q kT scale + mask) v (Vaswani et al., 2017) in plain products; q, k, v [..., heads, length, width].

    The factor is applied to q, the smallest operand.
    """
    if enable_gqa:
        k, v = (t.repeat_interleave(q.shape[-3] // t.shape[-3], -3) for t in (k, v))
    scores = torch.matmul(q * _scale(q, scale), k.transpose(-2, -1))
    if causal:
        mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
    empty = None
    if mask is not None and not causal:
        mask, empty = _with_some_key(mask)
    if mask is not None:
        scores = scores + _bias(mask, scores.dtype)
    weights = torch.softmax(scores, -1)
    if dropout:
        weights = aten.native_dropout.default(weights, dropout, True)[0]
    made = torch.matmul(weights, v)
    return made if empty is None else made.masked_fill(empty, 0.0)


def whole_attention(
    taken: Taken, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None = None,
    dropout: float = 0.0, causal: bool = False, *, scale: float | None = None, enable_gqa: bool = False,
) -> torch.Tensor:  # fmt: skip
    """The same as one operator; in plain products where the kernels do not take it: dropout, a mask that is trained,
    other types or sizes."""
    if dropout or not fits(taken, q, k, v, mask, enable_gqa):
        return plain_attention(q, k, v, mask, dropout, causal, scale=scale, enable_gqa=enable_gqa)
    bias, empty = None, None
    if mask is not None:
        mask, empty = _with_some_key(mask)
        bias = _bias(mask, q.dtype)
    if bias is not None and mask is not None and mask.dtype != torch.bool and _may_hide_all(mask):
        made = attended_anyway(q, k, v, bias, _scale(q, scale))
    else:
        made = attended(q, k, v, bias, _scale(q, scale), causal)
    return made if empty is None else made.masked_fill(empty, 0.0)


def _may_hide_all(mask: torch.Tensor) -> bool:
    """Whether finite numbers of an added mask may hide all keys of a query."""
    node = node_of(mask)
    known = None if node is None else constant_of(node, {})
    return known is None or hides_some_query(known)


def _scale(q: torch.Tensor, scale: float | None) -> float:
    return 1 / math.sqrt(q.shape[-1]) if scale is None else scale


def _with_some_key(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The mask with every key let through where it shuts out all, and where that is: those queries attend to nothing.

    Their result is 0 in torch, and the softmax of no key is not a number.
    """
    shut = ~mask if mask.dtype == torch.bool else mask == -math.inf
    empty = shut.all(-1, keepdim=True)
    return (mask | empty if mask.dtype == torch.bool else mask.masked_fill(empty, 0.0)), empty


def _bias(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What a mask adds to scores: itself, or of a boolean one 0 where it is true, else minus infinity."""
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.where(mask, torch.zeros((), dtype=dtype), torch.full((), -math.inf, dtype=dtype))
