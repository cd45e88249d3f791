"""Dropout and random tensors; each operator has a fixed seed of its own, drawn from its name."""

import zlib
from typing import Any

import numpy as np
import torch
from onnx import TensorProto

from planc.errors import ModelError
from planc.torch.lowering import TorchLowering, aten, lower
from planc.torch.tensors import Recorded
from planc.training.apply import emit_forward, forward_node, gradients_of
from planc.training.emit.builder import FLOATS, Var


@lower(aten.native_dropout.default)
def dropout(c: TorchLowering, input: Var, p: float, train: bool | None) -> tuple[Var, Recorded]:
    """The operator with its one-byte mask."""
    y = Var(c.fresh("Dropout"), *c.specs[0])
    ratio, training = c.b.full((), p, input.dtype), c.b.constant(np.array(bool(train)))
    node = forward_node(c.b, c.table, "Dropout", [input, ratio, training], [y], name=y.name)
    return y, Recorded(emit_forward(c.b, node)[0])


@lower(aten.native_dropout_backward.default, raw=("mask",))
def dropout_backward(c: TorchLowering, grad_output: Var, mask: Any, scale: float) -> Var:
    """dy mask / (1 - p)."""
    del scale
    if not isinstance(mask, Recorded):
        raise ModelError("a dropout's gradient without its forward operator has no lowering to ONNX")
    return gradients_of(c.b, mask.node, [grad_output], [0])[0]


@lower(aten.rand_like.default, aten.rand.default)
def rand_like(c: TorchLowering, self: Any = None, **_: Any) -> Var:
    """Uniform in [0, 1)."""
    del self
    return _sampled(c, "RandomUniform")


@lower(aten.randn_like.default, aten.randn.default)
def randn_like(c: TorchLowering, self: Any = None, **_: Any) -> Var:
    """Standard normal."""
    del self
    return _sampled(c, "RandomNormal")


def _sampled(c: TorchLowering, op_type: str) -> Var:
    shape, dtype = c.specs[0]
    drawn = dtype if dtype in FLOATS else TensorProto.FLOAT
    name = c.fresh(op_type)
    seed = float(zlib.crc32(name.encode()) & 0xFFFFFF)
    sizes = list(shape) or [1]
    made = c.b.emit(op_type, [], [(tuple(sizes), drawn)], [name], shape=sizes, dtype=drawn, seed=seed)[0]
    return c.b.reshape(made, shape)


def _scaled(c: TorchLowering, a: Var, factor: float, shift: float) -> Var:
    """a factor + shift."""
    scaled = c.b.mul(a, float(factor))
    return c.b.add(scaled, float(shift)) if shift else scaled


@lower(torch.ops.prims.uniform.default)
def uniform(c: TorchLowering, low: float, high: float, **_: Any) -> Var:
    """Uniform in [low, high)."""
    return _scaled(c, _sampled(c, "RandomUniform"), high - low, low)


@lower(torch.ops.prims.normal.default, aten.normal_functional.default, raw=("self",))
def normal(c: TorchLowering, mean: float = 0.0, std: float = 1.0, **_: Any) -> Var:
    """Normal of this mean and deviation."""
    return _scaled(c, _sampled(c, "RandomNormal"), std, mean)


@lower(
    aten.randint.default, aten.randint.low, aten.randint_like.default, aten.randint_like.low_dtype, raw=("self",)
)  # fmt: skip
def randint(c: TorchLowering, high: int, low: int = 0, **_: Any) -> Var:
    """Whole numbers in [low, high), each as likely."""
    drawn = c.b.unary("Floor", _scaled(c, _sampled(c, "RandomUniform"), high - low, low))
    last = c.b.op("Min", [drawn, c.b.scalar_for(float(high - 1), drawn)], drawn.shape)  # a product may round up
    return c.b.cast(last, c.specs[0][1])


@lower(aten.bernoulli.p, raw=("self",))
def bernoulli(c: TorchLowering, self: Any, p: float = 0.5, generator: Any = None) -> Var:
    """1 with probability p, else 0."""
    del self, generator
    return c.b.cast(c.b.compare("Less", _sampled(c, "RandomUniform"), float(p)), c.specs[0][1])
