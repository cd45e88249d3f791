"""Gradients of operators that place or choose elements: scatters, the largest k, unpooling, one-hot."""

import numpy as np
from onnx import helper

from planc.errors import ModelError
from planc.training.emit.builder import Builder, Var
from planc.training.registry import ForwardNode, ForwardResult, Gradients, OutputGradients, forward_rule, gradient, sole
from planc.training.rules.indexing import added_elements


def _axis(node: ForwardNode) -> int:
    return int(node.attribute("axis", 0)) % node.input(0).rank


@forward_rule("ScatterElements")
def lower_scatter(b: Builder, node: ForwardNode) -> ForwardResult:
    """The operator; sums in a repeatable form where the device's own is not.

    Raises ModelError for products on such a device.
    """
    x, index, updates, y = node.input(0), node.input(1), node.input(2), node.output
    reduction = node.attribute("reduction", "none")
    if reduction == "add" and not node.table.scatter_add_repeats:
        b.add(x, b.cast(added_elements(b, node, index, b.wide(updates), x.shape, _axis(node)), x.dtype), name=y.name)
        return ForwardResult()
    if reduction == "mul" and not node.table.scatter_add_repeats:
        raise ModelError(f"{node.where}: products at colliding indices, which the device does not repeat exactly")
    b.emit(
        "ScatterElements", [x, index, updates], [(y.shape, y.dtype)], [y.name], axis=_axis(node), reduction=reduction
    )
    return ForwardResult()


@gradient("ScatterElements")
def scatter_elements(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """Updates get dy from where they went, the data what is left of it; extremes share it between ties, as torch does.

    Without reduction indices must not collide: which update stays is not defined then.
    """
    reduction = node.attribute("reduction", "none")
    forms = {"none": _replaced, "add": _summed, "mul": _multiplied, "max": _chosen, "min": _chosen}
    found = forms[reduction](b, node, sole(grads))
    return {i: v for i, v in found.items() if i in node.wanted}


def _taken(b: Builder, node: ForwardNode, a: Var) -> Var:
    """The elements of `a` at the indices."""
    index = node.input(1)
    return b.op("GatherElements", [a, index], index.shape, a.dtype, axis=_axis(node))


def _scattered(b: Builder, node: ForwardNode, base: Var, part: Var, reduction: str) -> Var:
    operands = [base, node.input(1), part]
    return b.op("ScatterElements", operands, base.shape, axis=_axis(node), reduction=reduction)


def _replaced(b: Builder, node: ForwardNode, dy: Var) -> Gradients:
    found = {}
    if 0 in node.wanted:
        zeros = b.expand(b.scalar_for(0.0, dy), node.input(1).shape)
        found[0] = _scattered(b, node, dy, zeros, "none")
    if 2 in node.wanted:
        found[2] = _taken(b, node, dy)
    return found


def _summed(b: Builder, node: ForwardNode, dy: Var) -> Gradients:
    return {0: dy, 2: _taken(b, node, dy)} if 2 in node.wanted else {0: dy}


def _multiplied(b: Builder, node: ForwardNode, dy: Var) -> Gradients:
    """dy times the product of the other factors at each place; sole factors of 0 are treated apart."""
    x, updates = node.input(0), node.input(2)
    zero, zero_update = b.compare("Equal", x, 0.0), b.compare("Equal", updates, 0.0)
    counted = _counted(b, node, b.cast(zero_update, x.dtype), b.cast(zero, x.dtype))
    whole, whole_updates = b.where(zero, 1.0, x), b.where(zero_update, 1.0, updates)
    product = b.mul(_scattered(b, node, whole, whole_updates, "mul"), dy)
    none = b.where(b.compare("Equal", counted, 0.0), product, 0.0)
    sole_zero = b.where(b.compare("Equal", counted, 1.0), product, 0.0)
    first = b.where(zero, sole_zero, b.div(none, whole))
    second = b.where(zero_update, _taken(b, node, sole_zero), b.div(_taken(b, node, none), whole_updates))
    return {0: first, 2: second}


def _counted(b: Builder, node: ForwardNode, part: Var, base: Var) -> Var:
    """`base` with `part` added at the indices, in a repeatable form."""
    if node.table.scatter_add_repeats:
        return _scattered(b, node, base, part, "add")
    return b.add(base, added_elements(b, node, node.input(1), part, base.shape, _axis(node)))


def _chosen(b: Builder, node: ForwardNode, dy: Var) -> Gradients:
    """dy shared between those of data and updates that equal the extreme."""
    x, updates, y = node.input(0), node.input(2), node.output
    kept = b.compare("Equal", x, y)
    took = b.compare("Equal", updates, _taken(b, node, y))
    ties = _counted(b, node, b.cast(took, x.dtype), b.cast(kept, x.dtype))
    share = b.div(dy, ties)
    return {0: b.where(kept, share, 0.0), 2: b.where(took, _taken(b, node, share), 0.0)}


@gradient("ScatterND")
def scatter_nd(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """Without reduction (others are written as scatters of elements): updates get dy from where they went."""
    dy, index, updates, found = sole(grads), node.input(1), node.input(2), {}
    if 0 in node.wanted:
        found[0] = b.op("ScatterND", [dy, index, b.zeros(updates.shape, dy.dtype)], dy.shape)
    if 2 in node.wanted:
        found[2] = b.op("GatherND", [dy, index], updates.shape)
    return found


@gradient("TopK")
def top_k(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """dy to where each value was; no two were at one place."""
    x, dy, at = node.input(0), sole(grads), node.outputs[1]
    zeros = b.zeros(x.shape, dy.dtype)
    axis = int(node.attribute("axis", -1)) % x.rank
    return {0: b.op("ScatterElements", [zeros, at, dy], x.shape, axis=axis)}


@gradient("MaxUnpool")
def max_unpool(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """dy at the position that each maximum was put to; positions count through the whole output."""
    x, index, dy = node.input(0), node.input(1), sole(grads)
    if node.has_input(2):
        raise ModelError(
            f"{node.where}: the gradient with output_shape is not supported, whose positions mean another size"
        )
    taken = b.op("Gather", [b.reshape(dy, (dy.size,)), b.reshape(index, (index.size,))], (index.size,), axis=0)
    return {0: b.reshape(taken, x.shape)}


@gradient("OneHot")
def one_hot(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """Of the two values [off, on]: the sums of dy where each was written."""
    dy, levels = sole(grads), node.input(2)
    one = b.constant(np.array([0, 1], helper.tensor_dtype_to_np_dtype(dy.dtype)))
    hot = b.op("OneHot", [node.input(0), node.input(1), one], dy.shape, dy.dtype, axis=int(node.attribute("axis", -1)))
    axes = list(range(dy.rank))
    on = b.reshape(b.sum(b.mul(dy, hot), axes), (1,))
    off = b.reshape(b.sum(b.mul(dy, b.sub(1.0, hot)), axes), (1,))
    return {2: b.reshape(b.concat([off, on], 0), levels.shape)}
