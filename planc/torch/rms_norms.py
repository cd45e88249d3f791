"""RMS-norms that a model writes out itself, as libraries of language models do, found by what they compute.

A module is taken for one when its class is called so and its results, on numbers and weights drawn at random, are those of
the operator.
"""

from collections.abc import Callable

import torch

from planc.torch.canonical import rms_norm

_SUFFIX = "RMSNorm"
_EPSILONS = ("variance_epsilon", "eps", "epsilon")
_TOLERANCE = 1e-5
_SCALES: tuple[Callable[[torch.Tensor], torch.Tensor], ...] = (lambda weight: weight, lambda weight: 1.0 + weight)
"""How the scale follows from the weight: as it is, or, in Gemma's manner, with 1 added."""

Scale = Callable[[torch.Tensor], torch.Tensor]


def rms_norm_of(module: torch.nn.Module) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """What a written-out RMS-norm computes; None for any other module."""
    found = _recognised(module)
    if found is None:
        return None
    scale, epsilon = found
    shape = list(module.weight.shape)
    return lambda x: rms_norm(x, shape, scale(module.weight), epsilon)


def _recognised(module: torch.nn.Module) -> tuple[Scale, float] | None:
    """How an RMS-norm's scale follows from its weight, and its epsilon; None for any other module."""
    name = type(module).__name__
    if not name.endswith(_SUFFIX) or isinstance(module, torch.nn.RMSNorm) or next(module.children(), None) is not None:
        return None
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    epsilon = next((float(e) for n in _EPSILONS if isinstance(e := getattr(module, n, None), (int, float))), None)
    if list(tensors) != ["weight"] or module.weight.dim() != 1 or epsilon is None:
        return None
    return next(((scale, epsilon) for scale in _SCALES if _computes(module, scale, epsilon)), None)


def _computes(module: torch.nn.Module, scale: Scale, epsilon: float) -> bool:
    """Whether the module gives what the operator gives, on numbers whose squares are of the size of epsilon."""
    generator = torch.Generator().manual_seed(0)
    size = module.weight.shape[0]
    weight, x = (torch.randn(*shape, generator=generator) for shape in ((size,), (3, size)))
    x = x * max(epsilon, 1e-12) ** 0.5
    try:
        with torch.no_grad():
            found = torch.func.functional_call(module, {"weight": weight}, (x,))
    except Exception:
        return False
    wanted = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon) * scale(weight)
    same = isinstance(found, torch.Tensor) and found.shape == wanted.shape and found.dtype == wanted.dtype
    return bool(same and torch.allclose(found, wanted, rtol=_TOLERANCE, atol=_TOLERANCE))
