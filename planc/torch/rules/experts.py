"""Mixtures of experts: tokens counted and multiplied by the weight of the expert that their row belongs to.

The rows of an expert lie together, and where they end is computed; the graph is static, so every expert's product
covers all rows, those of others as zeros.
"""

from typing import Any

import numpy as np
from onnx import TensorProto

from planc.errors import ModelError
from planc.torch.lowering import TorchLowering, aten, lower, lower_library
from planc.training.emit.builder import Var


@lower(aten.histc.default)
def histogram(c: TorchLowering, self: Var, bins: int = 100, min: float = 0, max: float = 0) -> Var:
    """How many elements lie in each of equally wide bins between two bounds, the upper one included; rounded as torch
    does. Equal bounds stand for the input's own."""
    b, (shape, dtype) = c.b, c.specs[0]
    if not self.size:
        return b.zeros(shape, dtype)
    x = b.cast(b.reshape(self, (self.size, 1)), dtype)
    low, high = _bounds(c, x, float(min), float(max))
    scaled = b.div(b.mul(b.sub(x, low), float(bins)), b.sub(high, low))
    place = b.cast(b.unary("Floor", scaled), TensorProto.INT64)
    last = b.op("Min", [place, b.scalar_for(bins - 1, place)], place.shape)
    inside = b.op("And", [b.compare("GreaterOrEqual", x, low), b.compare("LessOrEqual", x, high)], x.shape)
    numbers = b.constant(np.arange(bins, dtype=np.int64)[None])
    here = b.op("And", [b.compare("Equal", last, numbers), inside], (self.size, bins))
    return b.sum(b.cast(here, dtype), [0], keepdims=False)


def _bounds(c: TorchLowering, x: Var, low: float, high: float) -> tuple[Var, Var]:
    """The bounds of a histogram; where they are equal, the least and the greatest element, or one to either side."""
    if low != high:
        return c.b.scalar_for(low, x), c.b.scalar_for(high, x)
    least, most = (c.b.reduce(kind, x, [0, 1]) for kind in ("ReduceMin", "ReduceMax"))
    same = c.b.compare("Equal", least, most)
    return c.b.where(same, c.b.sub(least, 1.0), least), c.b.where(same, c.b.add(most, 1.0), most)


def _members(c: TorchLowering, ends: Var, rows: int) -> Var:
    """[rows, experts]: whether each row lies before the expert's end and not before the one of the expert ahead."""
    b, column = c.b, np.arange(rows)[:, None]
    numbers = b.cast(b.constant(column), ends.dtype)
    before = b.compare("Less", numbers, b.reshape(ends, (1, ends.size)))
    earlier = b.pad(b.slice(ends, {0: (0, ends.size - 1, 1)}), [1], [0])
    return b.op("And", [before, b.compare("GreaterOrEqual", numbers, b.reshape(earlier, (1, ends.size)))], before.shape)


@lower(aten._grouped_mm.default)
def grouped_product(
    c: TorchLowering, self: Var, mat2: Var, offs: Var | None = None, bias: Var | None = None, out_dtype: Any = None
) -> Var:
    """Rows [S, K] by expert weights [E, K, N]; or, as the weights' gradient is, [K, S] by [S, N] summed per expert."""
    del out_dtype
    b = c.b
    if offs is None:
        return b.matmul(self, mat2)
    if bias is not None or self.rank != 2 or mat2.rank not in (2, 3):
        raise ModelError("this form of a grouped product has no lowering to ONNX")
    rows = self.shape[0] if mat2.rank == 3 else self.shape[1]
    members, experts = _members(c, offs, rows), offs.size
    if mat2.rank == 3:
        width, out = mat2.shape[1:]
        mask = b.cast(b.reshape(members, (rows, experts, 1)), self.dtype)
        spread = b.mul(mask, b.reshape(self, (rows, 1, width)))
        return b.gemm(b.reshape(spread, (rows, experts * width)), b.reshape(mat2, (experts * width, out)))
    mask = b.cast(b.reshape(b.transpose(members, (1, 0)), (experts, 1, rows)), self.dtype)
    return b.matmul(b.mul(mask, b.reshape(self, (1, *self.shape))), mat2)


@lower_library("transformers::grouped_mm_fallback")
def grouped_fallback(c: TorchLowering, input: Var, weight: Var, offs: Var) -> Var:
    """The grouped product as transformers has it where torch's own is not to be compiled."""
    return grouped_product(c, input, weight, offs)


@lower_library("transformers::grouped_mm_fallback_backward")
def grouped_fallback_backward(
    c: TorchLowering, input: Var, weight: Var, offs: Var, grad_output: Var
) -> tuple[Var, Var]:
    """The gradients of rows and weights, both grouped products."""
    rows = grouped_product(c, grad_output, c.b.swap_last(weight), offs)
    return rows, grouped_product(c, c.b.transpose(input, (1, 0)), grad_output, offs)
