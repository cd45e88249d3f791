"""Forward operators that are run in another form, one whose gradient keeps less or has a standard counterpart.

Autograd differentiates the form. It is put in the operator's place in torch's dispatcher, so that it is found whoever
calls the operator: a module, a functional, or torch's own C++ code.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch._C import DispatchKey
from torch._dispatch.python import enable_python_dispatcher

from planc.errors import ModelError
from planc.torch import matrices, plain_forms, whole
from planc.torch.attention import Taken
from planc.torch.plain_losses import ctc_loss
from planc.torch.plain_scans import logcumsumexp
from planc.torch.scaled_attention import plain_attention, whole_attention

aten = torch.ops.aten


def _dropout(x: torch.Tensor, p: float, train: bool) -> torch.Tensor:
    """The fused dropout, whose gradient keeps a mask of one byte an element; the CPU's own keeps a float mask."""
    return aten.native_dropout.default(x, p, True)[0] if train and p else x


def _dropout_in_place(x: torch.Tensor, p: float, train: bool) -> torch.Tensor:
    """The same, written over its input."""
    return x.copy_(_dropout(x, p, train)) if train and p else x


def _weight_norm(v: torch.Tensor, g: torch.Tensor, dim: int = 0) -> torch.Tensor:
    """v g / |v|, the norm over all axes but `dim` (Salimans and Kingma, 2016)."""
    return v * (g / torch.norm_except_dim(v, 2, dim))


def _packed(*_args: Any, **_named: Any) -> Any:
    raise ModelError(
        "pack_padded_sequence cuts a batch by the values of its lengths, and planc's graphs are static; run over the "
        "padded batch and gather each sequence's last step"
    )


def rms_norm(
    x: torch.Tensor, shape: list[int], weight: torch.Tensor | None = None, eps: float | None = None
) -> torch.Tensor:
    """x / sqrt(mean x^2 + eps), scaled: one operator, in the type that torch's promotion gives."""
    wanted = x.dtype if weight is None else torch.promote_types(x.dtype, weight.dtype)
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    weight = weight if weight is None else weight.to(wanted)
    made: torch.Tensor = whole.rms_norm(x.to(wanted), list(shape), weight, eps)
    return made


_OVERRIDES: dict[Any, Callable[..., Any]] = {
    aten.dropout.default: _dropout,
    aten.dropout_.default: _dropout_in_place,
    aten.scaled_dot_product_attention.default: plain_attention,
    aten._weight_norm.default: _weight_norm,
    aten.rms_norm.default: rms_norm,
    aten.grid_sampler_2d.default: plain_forms.grid_sampler_2d,
    aten._cdist_forward.default: plain_forms.cdist,
    aten._pdist_forward.default: plain_forms.pdist,
    aten.embedding_bag.padding_idx: plain_forms.embedding_bag,
    aten.embedding_bag.default: plain_forms.embedding_bag,
    aten._embedding_bag.default: plain_forms.embedding_bag_kernel,
    aten.grid_sampler_3d.default: plain_forms.grid_sampler_3d,
    aten.ctc_loss.IntList: ctc_loss,
    aten.ctc_loss.Tensor: ctc_loss,
    aten.logcumsumexp.default: logcumsumexp,
    aten.bilinear.default: plain_forms.bilinear,
    aten.adaptive_max_pool2d.default: plain_forms.adaptive_max_pool,
    aten.adaptive_max_pool3d.default: plain_forms.adaptive_max_pool,
    aten._pack_padded_sequence.default: _packed,
    aten.fake_quantize_per_tensor_affine.default: plain_forms.fake_quantized,
    aten.fake_quantize_per_tensor_affine.tensor_qparams: plain_forms.fake_quantized,
    aten.fake_quantize_per_channel_affine.default: plain_forms.fake_quantized_channels,
    aten._linalg_check_errors.default: matrices.unchecked,
}


def replaced_operators() -> frozenset[Any]:
    """Operators that are traced in another form."""
    return frozenset(_OVERRIDES)


_KEYS = (DispatchKey.CompositeImplicitAutograd, DispatchKey.Autograd)


@contextmanager
def canonical_operators(kept: Iterable[Any], taken: Taken | None = None) -> Iterator[None]:
    """Within, the operators above run in their form, and those in `kept` whole, whatever form torch has for them.

    Attention that is `taken` is one operator."""
    overrides = dict(_OVERRIDES)
    if taken is not None:
        overrides[aten.scaled_dot_product_attention.default] = partial(whole_attention, taken)
    packets = {op.overloadpacket for op in kept if isinstance(op, torch._ops.OpOverload)}
    overloads = [getattr(packet, name) for packet in packets for name in packet.overloads()]
    whole = [op for op in overloads if any(k in op.py_kernels for k in _KEYS)]
    before = {op: dict(op.py_kernels) for op in (*overrides, *whole)}
    try:
        for op in whole:
            for key in _KEYS:
                op.py_kernels.pop(key, None)
        for op, form in overrides.items():
            op.py_kernels.update(dict.fromkeys(_KEYS, form))
        for op in before:
            op._dispatch_cache.clear()
        with enable_python_dispatcher():
            yield
    finally:
        for op, registered in before.items():
            op.py_kernels.clear()
            op.py_kernels.update(registered)
            op._dispatch_cache.clear()
