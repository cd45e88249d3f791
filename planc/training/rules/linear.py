"""Gradients of matrix products: dA = dY Bt, dB = At dY (Giles, Collected matrix derivative results, 2008)."""

from planc.training.builder import Builder, Value
from planc.training.registry import ForwardNode, Gradients, OutputGradients, gradient, sole
from planc.training.rules.reductions import leading_sum


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
    return found


def _left(b: Builder, left: Value, right: Value, dy: Value) -> Value:
    if right.rank == 2:
        return b.reshape(b.gemm(_matrix(b, dy), right, trans_b=True), left.shape)
    return b.unbroadcast(b.matmul(dy, b.swap_last(right)), left.shape)


def _right(b: Builder, left: Value, right: Value, dy: Value) -> Value:
    if right.rank == 2:
        return b.gemm(_matrix(b, left), _matrix(b, dy), trans_a=True)
    return b.unbroadcast(b.matmul(b.swap_last(left), dy), right.shape)


def _matrix(b: Builder, a: Value) -> Value:
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


def _addend(b: Builder, node: ForwardNode, dy: Value) -> Value:
    shape = node.input(2).shape
    if shape in ((dy.shape[1],), (1, dy.shape[1])):
        return b.reshape(leading_sum(b, node.table, dy, 1), shape)
    return b.unbroadcast(dy, shape)
