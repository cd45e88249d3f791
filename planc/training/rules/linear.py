"""Gradients of matrix products: dA = dY Bt, dB = At dY (Giles, Collected matrix derivative results, 2008)."""

import math

import numpy as np

from planc.training.emit.builder import Builder, Var
from planc.training.registry import ForwardNode, Gradients, OutputGradients, gradient, sole
from planc.training.rules.reductions import leading_sum

NARROW = 4
"""How many times smaller a product must be than its left operand to be kept in memory for a cheaper sum."""


@gradient("MatMul")
def matmul(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """Operands of rank one are treated as a row (left) or a column (right), as the operator defines."""
    x, y = node.input(0), node.input(1)
    left = x if x.rank > 1 else b.reshape(x, (1, *x.shape))
    right = y if y.rank > 1 else b.reshape(y, (*y.shape, 1))
    batch = node.output.shape[: max(left.rank, right.rank) - 2]
    dy = b.reshape(sole(grads), (*batch, left.shape[-2], right.shape[-1]))
    found = {}
    if 1 in node.wanted:
        found[1] = b.reshape(_right(b, left, right, dy), y.shape)
    if 0 in node.wanted:
        found[0] = b.reshape(_left(b, left, right, dy), x.shape)
        if x.rank == y.rank > 1 and NARROW * node.output.size <= x.size:  # along a row, dX X = dY Yt X = dY Y
            b.inner_products[found[0].name] = (dy, node.output)
    return found


def _left(b: Builder, left: Var, right: Var, dy: Var) -> Var:
    if right.rank == 2:
        return b.reshape(b.gemm(_matrix(b, dy), right, trans_b=True), left.shape)
    return b.unbroadcast(_product(b, dy, right, swap=1), left.shape)


def _right(b: Builder, left: Var, right: Var, dy: Var) -> Var:
    if right.rank == 2:
        return b.gemm(_matrix(b, left), _matrix(b, dy), trans_a=True)
    return b.unbroadcast(_product(b, left, dy, swap=0), right.shape)


def _product(b: Builder, left: Var, right: Var, swap: int) -> Var:
    """The product with the operand at position `swap` transposed; the other operand and the result are transposed in its
    place where they are smaller: the probabilities of attention are larger than what they are multiplied with."""
    operands = [left, right]
    turned, other = operands[swap], operands[1 - swap]
    result = math.prod(np.broadcast_shapes(left.shape[:-2], right.shape[:-2]))
    result *= turned.shape[-1 if swap == 0 else -2] * other.shape[-1 if swap == 0 else -2]
    if turned.size > other.size + result:
        factors = [b.swap_last(other), turned] if swap == 0 else [turned, b.swap_last(other)]
        return b.swap_last(b.matmul(factors[0], factors[1]))
    operands[swap] = b.swap_last(turned)
    return b.matmul(operands[0], operands[1])


def _matrix(b: Builder, a: Var) -> Var:
    """`a` with all but its last axis merged."""
    return b.reshape(a, (a.size // a.shape[-1], a.shape[-1]))


@gradient("Gemm")
def gemm(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """Y = alpha op(A) op(B) + beta C."""
    dy, a, w = sole(grads), node.input(0), node.input(1)
    trans_a, trans_b = bool(node.attribute("transA", 0)), bool(node.attribute("transB", 0))
    alpha = float(node.attribute("alpha", 1.0))
    found = {}
    if 2 in node.wanted:
        found[2] = b.mul(_addend(b, node, dy), float(node.attribute("beta", 1.0)))
    if 1 in node.wanted:
        found[1] = (
            b.gemm(dy, a, trans_a=True, trans_b=trans_a, alpha=alpha)
            if trans_b
            else b.gemm(a, dy, trans_a=not trans_a, alpha=alpha)
        )
    if 0 in node.wanted:
        found[0] = (
            b.gemm(w, dy, trans_a=trans_b, trans_b=True, alpha=alpha)
            if trans_a
            else b.gemm(dy, w, trans_b=not trans_b, alpha=alpha)
        )
    return found


def _addend(b: Builder, node: ForwardNode, dy: Var) -> Var:
    shape = node.input(2).shape
    if shape in ((dy.shape[1],), (1, dy.shape[1])):
        return b.reshape(leading_sum(b, node.table, dy, 1), shape)
    return b.unbroadcast(dy, shape)
