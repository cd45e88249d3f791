"""Sums that several rules share, in the form the lowering table picks for the device; of halves, in float32."""

import math

import numpy as np
from onnx import TensorProto, helper

from planc.kernels.channel_sum import CHANNEL_SUM
from planc.kernels.row_sum import ROW_SUM
from planc.kernels.source import C_TYPES
from planc.training.emit.builder import Builder, Var
from planc.training.emit.forms import OperatorForms

_FEW_COLUMNS = 16
"""On the CPU the product shares out columns among threads."""

_COLUMNS = 256
"""Of the matrix that a tensor is taken for when all its elements are summed."""


def row_sum(b: Builder, table: OperatorForms, a: Var) -> Var:
    """The column sums [D] of a matrix [R, D], in float32 where it is half precision."""
    if table.kernels and a.dtype != TensorProto.DOUBLE:
        return b.kernel(ROW_SUM, [a])[0]
    a = b.wide(a)
    if table.row_sum == "reduce" or (table.row_sum == "product" and (a.shape[1] < _FEW_COLUMNS or not a.size)):
        return b.sum(a, [0], keepdims=False)
    ones = b.constant(np.ones((1, a.shape[0]), helper.tensor_dtype_to_np_dtype(a.dtype)))
    return b.reshape(b.gemm(ones, a), (a.shape[1],))


def total(b: Builder, table: OperatorForms, a: Var) -> Var:
    """The sum of all elements, shape ().

    CUDA's reduction to a scalar adds the blocks' sums by atomics: the loss of 8,192 positions differed from run to run
    (H100); a Gemm with ones repeats.
    """
    if table.row_sum != "gemm":
        return b.op("ReduceSum", [b.wide(a)], (), keepdims=0)
    return b.reshape(row_sum(b, table, b.reshape(a, (a.size, 1))), ())


def squared_norm(b: Builder, table: OperatorForms, a: Var) -> Var:
    """The sum of the squares of all elements, shape (), in float32 where they are half precision; repeatable."""
    if table.row_sum != "gemm":
        return b.op("ReduceSumSquare", [b.wide(a)], (), keepdims=0)
    if not table.kernels or a.dtype == TensorProto.DOUBLE:
        wide = b.wide(a)
        return total(b, table, b.mul(wide, wide))
    columns = math.gcd(a.size, _COLUMNS)
    rows = b.kernel(ROW_SUM, [b.reshape(a, (a.size // columns, columns))], squares=1)[0]
    return total(b, table, rows)


def leading_sum(b: Builder, table: OperatorForms, a: Var, kept: int) -> Var:
    """The sum of `a` over all but its last `kept` axes."""
    tail = a.shape[a.rank - kept :]
    columns = math.prod(tail)
    return b.reshape(row_sum(b, table, b.reshape(a, (a.size // columns, columns))), tail)


def channel_mean(b: Builder, table: OperatorForms, a: Var) -> Var:
    """The mean of [N, C, ...] over all axes but the second, shape [1, C, 1, ...].

    On CUDA GlobalAveragePool followed by a mean over N takes 1.7 times the one-pass memory floor on [32, 256, 56, 56],
    ReduceMean over (0, 2, 3) 17.5 times (H100); on the CPU the one reduction is as fast.
    """
    a = b.wide(a)
    if table.channel_mean == "pool" and a.rank > 2:
        pooled = b.op("GlobalAveragePool", [a], (a.shape[0], a.shape[1], *[1] * (a.rank - 2)))
        return b.mean(pooled, [0])
    return b.mean(a, [0, *range(2, a.rank)])


def channel_sum(b: Builder, table: OperatorForms, a: Var) -> Var:
    """The sum of [N, C, ...] over all axes but the second, shape [1, C, 1, ...]."""
    if table.computes(a.dtype) and a.dtype in C_TYPES:
        (summed,) = b.kernel(CHANNEL_SUM, [a])
        return b.reshape(summed, (1, a.shape[1], *[1] * (a.rank - 2)))
    a = b.wide(a)
    if table.channel_mean == "pool" and a.rank > 2:
        return b.mul(channel_mean(b, table, a), float(a.size // a.shape[1]))
    return b.sum(a, [0, *range(2, a.rank)])
