"""Gradients of reductions: the output's gradient spread back over the reduced axes."""

from planc.training.emit.builder import HALVES, Builder, Var
from planc.training.registry import ForwardNode, ForwardResult, Gradients, OutputGradients, forward_rule, gradient, sole
from planc.training.rules.pooling import share_among_equal
from planc.training.rules.reductions import total


def _axes(node: ForwardNode) -> list[int]:
    rank = node.input(0).rank
    listed = node.ints(1, "axes")
    if not listed:
        return [] if node.attribute("noop_with_empty_axes", 0) else list(range(rank))
    return [axis % rank for axis in listed]


def _kept(b: Builder, node: ForwardNode, dy: Var) -> Var:
    """dy with the reduced axes present as ones."""
    axes = _axes(node)
    return b.reshape(dy, tuple(1 if i in axes else d for i, d in enumerate(node.input(0).shape)))


@forward_rule("ReduceSum", "ReduceMean", "ReduceSumSquare")
def lower_reduction(b: Builder, node: ForwardNode) -> ForwardResult:
    """The operator itself; where everything is summed and the device does not repeat that, its repeatable form."""
    x, y = node.input(0), node.output
    if node.table.row_sum != "gemm" or y.size > 1 or x.size == 1 or x.dtype in HALVES:
        settings = {k: v for k, v in node.attributes.items() if k != "axes"}
        axes = [node.input(1)] if node.has_input(1) else []
        b.op(node.op_type, [x, *axes], y.shape, name=y.name, **settings)
        return ForwardResult()
    summed = total(b, node.table, b.mul(x, x) if node.op_type == "ReduceSumSquare" else x)
    summed = b.mul(summed, 1 / x.size) if node.op_type == "ReduceMean" else summed
    b.reshape(summed, y.shape, name=y.name)
    return ForwardResult()


@gradient("ReduceSum")
def reduce_sum(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """dx = dy everywhere."""
    return {0: b.expand(_kept(b, node, sole(grads)), node.input(0).shape)}


@gradient("ReduceMean")
def reduce_mean(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """dx = dy / (number of values averaged)."""
    dy = _kept(b, node, sole(grads))
    return {0: b.expand(b.mul(dy, dy.size / node.input(0).size), node.input(0).shape)}


@gradient("ReduceSumSquare")
def reduce_sum_square(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """dx = 2 x dy."""
    return {0: b.mul(node.input(0), b.mul(_kept(b, node, sole(grads)), 2.0))}


@gradient("ReduceMax", "ReduceMin")
def reduce_extremum(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """dy to the positions of the extremum, shared equally between ties."""
    extreme, dy = (_kept(b, node, v) for v in (node.output, sole(grads)))
    return {0: share_among_equal(b, node.input(0), extreme, dy, _axes(node))}


@gradient("ReduceL2")
def reduce_l2(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """dx = x dy / y, 0 where y is 0."""
    norm, dy = (_kept(b, node, v) for v in (node.output, sole(grads)))
    return {0: b.mul(node.input(0), b.where(b.compare("Equal", norm, 0.0), 0.0, b.div(dy, norm)))}


@gradient("ReduceProd")
def reduce_product(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """dx = dy times the product of the other factors; of a sole factor 0 the product of the rest, of two of them 0."""
    x, dy, axes = node.input(0), _kept(b, node, sole(grads)), _axes(node)
    zero = b.compare("Equal", x, 0.0)
    rest = b.where(zero, 1.0, x)
    product = b.reduce("ReduceProd", rest, axes)
    zeros = b.sum(b.cast(zero, x.dtype), axes)
    at_zero = b.where(b.compare("Equal", zeros, 1.0), b.mul(dy, product), 0.0)
    elsewhere = b.where(b.compare("Equal", zeros, 0.0), b.mul(dy, product), 0.0)
    return {0: b.where(zero, at_zero, b.div(elsewhere, rest))}
