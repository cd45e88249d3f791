"""Forward operators that are run in another form, one whose gradient keeps less or has a standard counterpart.

Autograd differentiates the form. It is put in the operator's place in torch's dispatcher, so that it is found whoever
calls the operator: a module, a functional, or torch's own C++ code.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.utils.checkpoint
from torch._C import DispatchKey
from torch._dispatch.python import enable_python_dispatcher

from planc.torch import plain_forms

aten = torch.ops.aten


def _dropout(x: torch.Tensor, p: float, train: bool) -> torch.Tensor:
    """The fused dropout, whose gradient keeps a mask of one byte an element; the CPU's own keeps a float mask."""
    return aten.native_dropout.default(x, p, True)[0] if train and p else x


def _dropout_in_place(x: torch.Tensor, p: float, train: bool) -> torch.Tensor:
    """The same, written over its input."""
    return x.copy_(_dropout(x, p, train))


def _attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None = None, dropout: float = 0.0,
    causal: bool = False, *, scale: float | None = None, enable_gqa: bool = False,
) -> torch.Tensor:  # fmt: skip
    """softmax(q kT scale + mask) v (Vaswani et al., 2017) in plain products; q, k, v [..., heads, length, width].

    The factor is applied to q, the smallest operand. Fused kernels have no ONNX counterpart.
    """
    if enable_gqa:
        k, v = (t.repeat_interleave(q.shape[-3] // t.shape[-3], -3) for t in (k, v))
    scores = torch.matmul(q * (1 / math.sqrt(q.shape[-1]) if scale is None else scale), k.transpose(-2, -1))
    if causal:
        mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
    empty = None
    if mask is not None and not causal:
        mask, empty = _with_some_key(mask)
    if mask is not None:
        scores = scores + (_bias(mask, scores.dtype) if mask.dtype == torch.bool else mask)
    weights = torch.softmax(scores, -1)
    if dropout:
        weights = aten.native_dropout.default(weights, dropout, True)[0]
    made = torch.matmul(weights, v)
    return made if empty is None else made.masked_fill(empty, 0.0)


def _with_some_key(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The mask with every key let through where it shuts out all, and where that is: those queries attend to nothing.

    Their result is 0 in torch, and the softmax of no key is not a number.
    """
    shut = ~mask if mask.dtype == torch.bool else mask == -math.inf
    empty = shut.all(-1, keepdim=True)
    return (mask | empty if mask.dtype == torch.bool else mask.masked_fill(empty, 0.0)), empty


def _bias(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """0 where `mask`, else minus infinity."""
    return torch.where(mask, torch.zeros((), dtype=dtype), torch.full((), -math.inf, dtype=dtype))


def _weight_norm(v: torch.Tensor, g: torch.Tensor, dim: int = 0) -> torch.Tensor:
    """v g / |v|, the norm over all axes but `dim` (Salimans and Kingma, 2016)."""
    return v * (g / torch.norm_except_dim(v, 2, dim))


_OVERRIDES: dict[Any, Callable[..., Any]] = {
    aten.dropout.default: _dropout,
    aten.dropout_.default: _dropout_in_place,
    aten.scaled_dot_product_attention.default: _attention,
    aten._weight_norm.default: _weight_norm,
    aten.grid_sampler_2d.default: plain_forms.grid_sampler_2d,
    aten._cdist_forward.default: plain_forms.cdist,
    aten._pdist_forward.default: plain_forms.pdist,
    aten.embedding_bag.padding_idx: plain_forms.embedding_bag,
    aten.embedding_bag.default: plain_forms.embedding_bag,
    aten.adaptive_max_pool2d.default: plain_forms.adaptive_max_pool,
    aten.adaptive_max_pool3d.default: plain_forms.adaptive_max_pool,
}

_KEYS = (DispatchKey.CompositeImplicitAutograd, DispatchKey.Autograd)


@contextmanager
def canonical_operators(kept: Iterable[Any]) -> Iterator[None]:
    """Within, the operators above run in their form, and those in `kept` whole, whatever form torch has for them."""
    packets = {op.overloadpacket for op in kept if isinstance(op, torch._ops.OpOverload)}
    overloads = [getattr(packet, name) for packet in packets for name in packet.overloads()]
    whole = [op for op in overloads if any(k in op.py_kernels for k in _KEYS)]
    before = {op: dict(op.py_kernels) for op in (*_OVERRIDES, *whole)}
    try:
        for op in whole:
            for key in _KEYS:
                op.py_kernels.pop(key, None)
        for op, form in _OVERRIDES.items():
            op.py_kernels.update(dict.fromkeys(_KEYS, form))
        for op in before:
            op._dispatch_cache.clear()
        with enable_python_dispatcher():
            yield
    finally:
        for op, kernels in before.items():
            op.py_kernels.clear()
            op.py_kernels.update(kernels)
            op._dispatch_cache.clear()


@contextmanager
def plain_checkpoints() -> Iterator[None]:
    """Within, regions under torch.utils.checkpoint run as if they were not: what to recompute is the plan's business."""

    def nothing(*_args: Any, **_kwargs: Any) -> Iterator[None]:
        yield

    class Plain:
        @staticmethod
        def apply(function: Callable[..., Any], _preserve: bool, *args: Any) -> Any:
            return function(*args)

    module = torch.utils.checkpoint
    generator = patch.object(module, "_checkpoint_without_reentrant_generator", nothing)
    with generator, patch.object(module, "CheckpointFunction", Plain):
        yield
