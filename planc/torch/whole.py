"""Operators that torch takes apart on the CPU, as operators of planc's own: a trace then shows them whole, both ways.

They compute what torch's operators of the same name do, on any device; planc lowers them (`planc.torch.rules`).
"""

from typing import Any

import torch

LIBRARY = "planc"


def _rms_norm(x: torch.Tensor, shape: list[int], weight: torch.Tensor | None, eps: float) -> torch.Tensor:
    """x / sqrt(mean x^2 + eps) over the last axes, those of `shape`, times `weight`, in the type of x."""
    axes = list(range(-len(shape), 0))
    wide = x if x.dtype == torch.float64 else x.float()
    made = wide * torch.rsqrt(wide.square().mean(axes, keepdim=True) + eps)
    return (made if weight is None else made * weight).to(x.dtype)


def _rms_norm_backward(
    grad: torch.Tensor, x: torch.Tensor, shape: list[int], weight: torch.Tensor | None, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients of x and of the weight, that of a weight of ones where there is none."""
    axes, leading = list(range(-len(shape), 0)), list(range(x.dim() - len(shape)))
    wide, g = ((t if t.dtype == torch.float64 else t.float()) for t in (x, grad))
    inverse = torch.rsqrt(wide.square().mean(axes, keepdim=True) + eps)
    xhat = wide * inverse
    scaled = g if weight is None else g * weight
    dx = (scaled - xhat * (scaled * xhat).mean(axes, keepdim=True)) * inverse
    dweight = (g * xhat).sum(leading) if leading else g * xhat
    return dx.to(x.dtype), dweight.to(x.dtype if weight is None else weight.dtype)


def _fake(x: torch.Tensor, shape: list[int], weight: torch.Tensor | None, eps: float) -> torch.Tensor:
    del shape, weight, eps
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _fake_backward(
    grad: torch.Tensor, x: torch.Tensor, shape: list[int], weight: torch.Tensor | None, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    del grad, eps
    like = x if weight is None else weight
    return torch.empty(x.shape, dtype=x.dtype, device=x.device), like.new_empty(shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    del output
    x, ctx.shape, weight, ctx.eps = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    x, weight = ctx.saved_tensors
    dx, dweight = rms_norm_backward(grad, x, ctx.shape, weight, ctx.eps)
    return dx, None, dweight if weight is not None else None, None


rms_norm: Any = torch.library.custom_op(f"{LIBRARY}::rms_norm", _rms_norm, mutates_args=())
rms_norm_backward: Any = torch.library.custom_op(f"{LIBRARY}::rms_norm_backward", _rms_norm_backward, mutates_args=())
rms_norm.register_fake(_fake)
rms_norm_backward.register_fake(_fake_backward)
rms_norm.register_autograd(_backward, setup_context=_setup)
