"""Forward operators that are run in another form, one whose gradient keeps less or has a standard counterpart.

Each entry takes (operator, positional arguments, keyword arguments), as `torch.fx.Interpreter.call_function` does.
"""

import math
from collections.abc import Callable
from typing import Any

import torch

aten = torch.ops.aten


def _dropout(_target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The fused dropout, whose gradient keeps a mask of one byte an element; the CPU's own keeps a float mask."""
    x, p, train = _bound(args, kwargs, "input", "p", "train")
    return aten.native_dropout.default(x, p, True)[0] if train and p else x


def _dropout_in_place(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The same, written over its input."""
    return args[0].copy_(_dropout(target, args, kwargs))


def _attention(_target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    """softmax(q kT scale + mask) v (Vaswani et al., 2017) in plain products; q, k, v [..., heads, length, width].

    The factor is applied to q, the smallest operand. Fused kernels have no ONNX counterpart.
    """
    q, k, v, mask, dropout, causal = _bound(
        args, kwargs, "query", "key", "value", "attn_mask", "dropout_p", "is_causal"
    )
    scale, grouped = kwargs.get("scale"), kwargs.get("enable_gqa", False)
    if grouped:
        k, v = (t.repeat_interleave(q.shape[-3] // t.shape[-3], -3) for t in (k, v))
    scores = torch.matmul(q * (1 / math.sqrt(q.shape[-1]) if scale is None else scale), k.transpose(-2, -1))
    if causal:
        mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores + (_bias(mask, scores.dtype) if mask.dtype == torch.bool else mask)
    weights = torch.softmax(scores, -1)
    if dropout:
        weights = aten.native_dropout.default(weights, dropout, True)[0]
    return torch.matmul(weights, v)


def _bias(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """0 where `mask`, else minus infinity."""
    return torch.where(mask, torch.zeros((), dtype=dtype), torch.full((), -math.inf, dtype=dtype))


_DEFAULTS = {"attn_mask": None, "dropout_p": 0.0, "is_causal": False, "p": 0.5, "train": True}


def _bound(args: tuple[Any, ...], kwargs: dict[str, Any], *names: str) -> list[Any]:
    given = {**_DEFAULTS, **kwargs, **dict(zip(names, args, strict=False))}
    return [given[name] for name in names]


CANONICAL: dict[Any, Callable[..., Any]] = {
    aten.dropout.default: _dropout,
    aten.dropout_.default: _dropout_in_place,
    aten.scaled_dot_product_attention.default: _attention,
}
