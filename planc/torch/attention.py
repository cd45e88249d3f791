"""`planc::attention` and its gradient, operators of torch's dispatcher.

Autograd traces a pair that is lowered to planc's own `Attention` and `AttentionGradient`, and no matrix of probabilities is
ever part of the step.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch

from planc.kernels.attention import computed_by_library, has_kernels_for
from planc.torch.tensors import onnx_dtype
from planc.training.emit.forms import OperatorForms

aten = torch.ops.aten

_TYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Taken:
    """That a device has kernels of attention: a card's, or those of the CPU's `library`."""

    library: bool

    def served(self, dtype: torch.dtype, heads: int, groups: int) -> bool:
        """Whether they take this type and these numbers of heads of queries and of keys."""
        known = dtype in _TYPES
        return known and (not self.library or computed_by_library(onnx_dtype(dtype), heads, groups))


def taken_by(table: OperatorForms) -> Taken | None:
    """What the kernels of a device take, None where it has none."""
    return Taken(library=not table.kernels) if table.kernels or table.library else None


def attended(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None, scale: float, causal: bool = False
) -> torch.Tensor:
    """The operator's result for operands that fit; a bias [S or 1, T or 1] with up to two axes before these."""
    if bias is not None and q.dtype != torch.float32:  # cuDNN stretches a bias along batch and heads only
        bias = bias.expand(*bias.shape[:-2], q.shape[-2], k.shape[-2])
    made: torch.Tensor = torch.ops.planc.attention.default(q, k, v, bias, float(scale), causal)[0]
    return made


def fits(
    taken: Taken, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, grouped: bool
) -> bool:  # fmt: skip
    """Whether the kernels take these operands; with `grouped` several heads of queries may share one of keys."""
    if any(t.dim() != 4 for t in (q, k, v)) or k.shape != v.shape:
        return False
    width, heads, groups = q.shape[3], q.shape[1], k.shape[1]
    same = q.shape[0] == k.shape[0] and k.shape[3] == width and (heads % groups == 0 if grouped else heads == groups)
    sized = has_kernels_for(width) and min(*q.shape, *k.shape) > 0
    fixed = mask is None or (not mask.requires_grad and 2 <= mask.dim() <= 4)
    return same and sized and fixed and taken.served(q.dtype, heads, groups)


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
