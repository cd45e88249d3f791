"""Attention that a traced step holds whole: planc's own operators, in the layout in which the heads already lie."""

from typing import Any

import torch

import planc.torch.attention  # noqa: F401  the pair of operators
from planc.kernels.attention import ATTENTION, ATTENTION_GRADIENT, is_causal
from planc.ort_training.lazy import Permuted
from planc.torch.lowering import Tensor, TorchLowering, lower
from planc.torch.tensors import Constant
from planc.training.emit.builder import Var

_SWAP = [0, 2, 1, 3]
"""Between [B, H, S, D] and [B, S, H, D]."""


def _heads_last(a: Any) -> bool:
    return isinstance(a, Permuted) and list(a.perm) == _SWAP


def _laid(c: TorchLowering, a: Tensor, last: bool) -> Var:
    """A tensor [B, H, S, D] as the operator reads it."""
    return c.value(c.permute(a, _SWAP) if last else a)


def _masked(c: TorchLowering, bias: Tensor | None, causal: bool) -> tuple[list[Var], bool]:
    """The bias as an operand, and whether keys behind a query are hidden: a constant bias may say that, or nothing."""
    if isinstance(bias, Constant):
        given = bias.tensor.float().numpy()
        causal_bias = not causal and is_causal(_first(given), given.shape[-2:])
        if causal_bias or not given.any():
            return [], causal or causal_bias
    return [c.value(bias)] if bias is not None else [], causal


def _first(bias: Any) -> Any:
    """[S, T] of a bias that is the same for all batches and heads; else the bias."""
    one = bias[(0,) * (bias.ndim - 2)]
    return one if (bias == one).all() else bias


@lower(torch.ops.planc.attention.default, raw=("q", "k", "v", "bias"))
def attention(
    c: TorchLowering, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float, causal: bool
) -> tuple[Tensor, Var]:
    """The result, and a number for each row of scores."""
    last = all(_heads_last(a) for a in (q, k, v))
    mask, causal = _masked(c, bias, causal)
    operands = [*(_laid(c, a, last) for a in (q, k, v)), *mask]
    settings: dict[str, Any] = {"scale": float(scale), "causal": int(causal), "heads_last": int(last)}
    y, stats = c.b.kernel(ATTENTION, operands, [c.fresh("Attention")], **settings)
    return c.permute(y, _SWAP) if last else y, stats


@lower(torch.ops.planc.attention_backward.default, raw=("dy", "q", "k", "v", "y", "bias"))
def attention_backward(
    c: TorchLowering, dy: Tensor, q: Tensor, k: Tensor, v: Tensor, y: Tensor, stats: Var, bias: Tensor | None,
    scale: float, causal: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Gradients of queries, keys and values, in the forward operator's layout."""
    last = _heads_last(y)
    mask, causal = _masked(c, bias, causal)
    operands = [*(_laid(c, a, last) for a in (dy, q, k, v, y)), stats, *mask]
    settings: dict[str, Any] = {"scale": float(scale), "causal": int(causal), "heads_last": int(last)}
    grads = c.b.kernel(ATTENTION_GRADIENT, operands, **settings)
    return tuple(c.permute(grad, _SWAP) if last else grad for grad in grads)
