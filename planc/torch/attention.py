"""Scaled dot-product attention in a traced step: as plain products, or whole where planc has a kernel for it.

`planc::attention` and its gradient are operators of torch's dispatcher, so that autograd traces a pair that is lowered to
planc's own `Attention` and `AttentionGradient`, and no matrix of probabilities is ever part of the step.
"""

import math
from typing import Any

import torch

from planc.kernels.attention import has_kernels_for

aten = torch.ops.aten

_WHOLE_TYPES = (torch.float32, torch.float16, torch.bfloat16)


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
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None = None, dropout: float = 0.0,
    causal: bool = False, *, scale: float | None = None, enable_gqa: bool = False,
) -> torch.Tensor:  # fmt: skip
    """The same as one operator; in plain products where the kernels do not take it: dropout, a mask that is trained,
    other types or sizes."""
    if dropout or not fits(q, k, v, mask, enable_gqa):
        return plain_attention(q, k, v, mask, dropout, causal, scale=scale, enable_gqa=enable_gqa)
    bias, empty = None, None
    if mask is not None:
        mask, empty = _with_some_key(mask)
        bias = _bias(mask, q.dtype)
    made = attended(q, k, v, bias, _scale(q, scale), causal)
    return made if empty is None else made.masked_fill(empty, 0.0)


def attended(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None, scale: float, causal: bool = False
) -> torch.Tensor:
    """The operator's result for operands that fit; a bias [S or 1, T or 1] with up to two axes before these."""
    if bias is not None and q.dtype != torch.float32:  # cuDNN stretches a bias along batch and heads only
        bias = bias.expand(*bias.shape[:-2], q.shape[-2], k.shape[-2])
    made: torch.Tensor = torch.ops.planc.attention.default(q, k, v, bias, float(scale), causal)[0]
    return made


def fits(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, grouped: bool) -> bool:
    """Whether the kernels take these operands; with `grouped` several heads of queries may share one of keys."""
    if any(t.dim() != 4 for t in (q, k, v)) or k.shape != v.shape or q.dtype not in _WHOLE_TYPES:
        return False
    width, heads, groups = q.shape[3], q.shape[1], k.shape[1]
    same = q.shape[0] == k.shape[0] and k.shape[3] == width and (heads % groups == 0 if grouped else heads == groups)
    sized = has_kernels_for(width) and min(*q.shape, *k.shape) > 0
    fixed = mask is None or (not mask.requires_grad and 2 <= mask.dim() <= 4)
    return same and sized and fixed


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


# --- the pair of operators; their own arithmetic is only the specification


def _scores(
    q: torch.Tensor, k: torch.Tensor, bias: torch.Tensor | None, scale: float, causal: bool
) -> torch.Tensor:  # fmt: skip
    """Scores [B, H, S, T] in float32."""
    scores = q.float() @ _repeated(k, q).float().transpose(-2, -1) * scale
    if bias is not None:
        scores = scores + bias.float()
    return scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -math.inf) if causal else scores


def _repeated(a: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return a.repeat_interleave(q.shape[1] // a.shape[1], 1)


@torch.library.custom_op("planc::attention", mutates_args=())  # type: ignore[untyped-decorator]
def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None, scale: float, causal: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Result [B, H, S, D] and statistics [B, H, S] in float32, of queries [B, H, S, D], keys and values [B, G, T, D]."""
    scores = _scores(q, k, bias, scale, causal)
    return (scores.softmax(-1) @ _repeated(v, q).float()).to(q.dtype), scores.logsumexp(-1)


@torch.library.custom_op("planc::attention_backward", mutates_args=())  # type: ignore[untyped-decorator]
def attention_backward(
    dy: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, y: torch.Tensor, stats: torch.Tensor,
    bias: torch.Tensor | None, scale: float, causal: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Gradients of queries, keys and values."""
    p = torch.exp(_scores(q, k, bias, scale, causal) - stats[..., None])
    slope = dy.float() @ _repeated(v, q).float().transpose(-2, -1) - (dy.float() * y.float()).sum(-1, keepdim=True)
    ds = p * slope * scale
    groups = (k.shape[0], k.shape[1], -1, *k.shape[2:])
    dk = (ds.transpose(-2, -1) @ q.float()).reshape(groups).sum(2)
    dv = (p.transpose(-2, -1) @ dy.float()).reshape(groups).sum(2)
    return (ds @ _repeated(k, q).float()).to(q.dtype), dk.to(k.dtype), dv.to(v.dtype)


@attention.register_fake  # type: ignore[untyped-decorator]
def _attention_fake(q: torch.Tensor, _k: Any, _v: Any, _bias: Any, _scale: Any, _causal: Any) -> Any:
    return q.new_empty(q.shape), q.new_empty(q.shape[:3], dtype=torch.float32)


@attention_backward.register_fake  # type: ignore[untyped-decorator]
def _backward_fake(_dy: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *_: Any) -> Any:
    return tuple(t.new_empty(t.shape) for t in (q, k, v))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    q, k, v, bias, ctx.scale, ctx.causal = inputs
    ctx.save_for_backward(q, k, v, bias, *output)


def _differentiated(ctx: Any, dy: torch.Tensor, _dstats: Any) -> tuple[Any, ...]:
    q, k, v, bias, y, stats = ctx.saved_tensors
    grads = torch.ops.planc.attention_backward.default(dy, q, k, v, y, stats, bias, ctx.scale, ctx.causal)
    return *grads, None, None, None


attention.register_autograd(_differentiated, setup_context=_keep)
