"""Tensors of one number."""

from typing import Any

from planc.torch.lowering import TorchLowering, aten, lower
from planc.torch.tensors import Expanded


@lower(aten.full_like.default, aten.new_full.default, raw=("self",))
def full_like(c: TorchLowering, self: Any, fill_value: Any, **_: Any) -> Expanded:
    """All elements equal; broadcast from one."""
    del self
    return c.uniform(float(fill_value))


@lower(aten.zeros_like.default, aten.new_zeros.default, raw=("self",))
def zeros_like(c: TorchLowering, self: Any, **_: Any) -> Expanded:
    """All zeros."""
    del self
    return c.uniform(0.0)


@lower(aten.ones_like.default, aten.new_ones.default, raw=("self",))
def ones_like(c: TorchLowering, self: Any, **_: Any) -> Expanded:
    """All ones."""
    del self
    return c.uniform(1.0)


@lower(aten.empty_like.default, aten.new_empty.default, aten.new_empty_strided.default, raw=("self",))
def empty_like(c: TorchLowering, self: Any, **_: Any) -> Expanded:
    """Undefined elements, which are overwritten: zeros."""
    del self
    return c.uniform(0.0)
