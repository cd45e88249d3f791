"""Gradients of indexing operators: rows of the output's gradient return to the rows they came from.

Several indices may be equal, so their rows must be added up, and in a fixed order to be repeatable. ONNX Runtime's
ScatterND adds in the order its threads or atomics happen to run; ScatterElements is sequential on the CPU.
"""

import math

import numpy as np
from onnx import TensorProto, helper

from planc.kernels.embedding_gradient import EMBEDDING_GRADIENT, adds_rows, has_kernel
from planc.training.emit.builder import Builder, Shape, Var
from planc.training.registry import ForwardNode, Gradients, OutputGradients, gradient, sole


@gradient("Gather")
def gather(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """Table [R, ...] along axis 0, ids of any shape: row r of the gradient is the sum of dy over ids equal to r.

    Another axis is moved to the front first. Negative ids must not occur on CUDA's sorted form.
    """
    table, ids, dy = node.input(0), node.input(1), sole(grads)
    axis = int(node.attribute("axis", 0)) % table.rank
    if axis:
        order = [*range(axis, axis + ids.rank), *range(axis), *range(axis + ids.rank, dy.rank)]
        dy = b.transpose(dy, order)
    moved = (table.shape[axis], *table.shape[:axis], *table.shape[axis + 1 :])
    width = table.size // table.shape[axis]
    rows, flat = b.reshape(dy, (ids.size, width)), b.reshape(ids, (ids.size,))
    found = b.reshape(_sum_rows(b, node, flat, rows, table.shape[axis]), moved)
    return {0: b.transpose(found, [*range(1, axis + 1), 0, *range(axis + 1, table.rank)])}


def _sum_rows(b: Builder, node: ForwardNode, ids: Var, rows: Var, count: int) -> Var:
    """In float32 where the rows are half precision."""
    on_card = node.table.kernels and has_kernel(ids.size, rows.shape[1], rows.dtype)
    if count and ids.size and (on_card or (node.table.library and adds_rows(rows.shape[1], rows.dtype))):
        return b.kernel(EMBEDDING_GRADIENT, [ids, rows], count=count)[0]
    rows = b.wide(rows)
    forms = {"scatter-elements": _scatter, "one-hot": _one_hot, "segmented-scan": _segmented_scan}
    return forms[node.table.gather(ids.size, count)](b, ids, rows, count)


def _scatter(b: Builder, ids: Var, rows: Var, count: int) -> Var:
    """Sequential addition; [R] ids are expanded to the rows' shape, as the operator wants."""
    shape = (count, rows.shape[1])
    zeros = b.zeros(shape, rows.dtype)
    index = b.expand(b.reshape(ids, (ids.size, 1)), rows.shape)
    return b.op("ScatterElements", [zeros, index, rows], shape, axis=0, reduction="add")


def _one_hot(b: Builder, ids: Var, rows: Var, count: int) -> Var:
    """One Gemm with the one-hot matrix of the ids: for small tables."""
    levels = b.constant(np.array([0, 1], helper.tensor_dtype_to_np_dtype(rows.dtype)))
    hot = b.op("OneHot", [ids, b.ints([count]), levels], (ids.size, count), rows.dtype, axis=1)
    return b.gemm(hot, rows, trans_a=True)


def _segmented_scan(b: Builder, ids: Var, rows: Var, count: int) -> Var:
    """Sort by id, then log2(R) steps of a segmented scan (Hillis and Steele, 1986): the last row of each run of equal
    ids holds their sum, all others are zeroed, so that the final scatter adds at most one non-zero row to any place.
    """
    total = ids.size
    ordered, order = b.emit(
        "TopK", [ids, b.ints([total])], [((total,), ids.dtype), ((total,), TensorProto.INT64)], largest=0, sorted=1
    )
    rows = b.op("Gather", [rows, order], rows.shape, axis=0)
    column, distance = b.reshape(ordered, (total, 1)), 1
    while distance < total:
        earlier = {0: (0, total - distance, 1)}
        same = b.compare("Equal", b.slice(column, {0: (distance, total, 1)}), b.slice(column, earlier))
        carried = b.mul(b.slice(rows, earlier), b.cast(same, rows.dtype))
        rows = b.add(rows, b.pad(carried, [distance, 0], [0, 0]))
        distance *= 2
    inner = b.compare("Equal", b.slice(column, {0: (1, total, 1)}), b.slice(column, {0: (0, total - 1, 1)}))
    last = b.sub(1.0, b.pad(b.cast(inner, rows.dtype), [0, 0], [1, 0]))
    return _scatter(b, ordered, b.mul(rows, last), count)


@gradient("GatherElements")
def gather_elements(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """dy added back at the indices: by a scatter where that repeats, else as rows of one element."""
    x, index, dy = node.input(0), node.input(1), b.wide(sole(grads))
    axis = int(node.attribute("axis", 0)) % x.rank
    if node.table.scatter_add_repeats:
        zeros = b.zeros(x.shape, dy.dtype)
        return {0: b.op("ScatterElements", [zeros, index, dy], x.shape, axis=axis, reduction="add")}
    return {0: added_elements(b, node, index, dy, x.shape, axis)}


def added_elements(b: Builder, node: ForwardNode, index: Var, dy: Var, shape: Shape, axis: int) -> Var:
    """Zeros of `shape` with dy added at `index` along an axis, in the device's repeatable form."""
    places = _flat_places(b, index, shape, axis)
    column = b.reshape(dy, (dy.size, 1))
    return b.reshape(_sum_rows(b, node, b.reshape(places, (dy.size,)), column, math.prod(shape)), shape)


def _flat_places(b: Builder, index: Var, shape: Shape, axis: int) -> Var:
    """Where among the elements of a tensor in order each index along an axis points."""
    strides = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
    others = np.zeros(index.shape, np.int64)
    for i, size in enumerate(index.shape):
        if i != axis:
            others += np.arange(size).reshape([-1 if k == i else 1 for k in range(index.rank)]) * strides[i]
    wide = b.cast(index, TensorProto.INT64)
    wrapped = b.where(b.compare("Less", wide, 0), b.add(wide, shape[axis]), wide)
    return b.add(b.mul(wrapped, strides[axis]), b.constant(others))


@gradient("GatherND")
def gather_nd(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """Each slice of dy added to the one that its index names, as rows of a table with one row a position."""
    x, index, dy = node.input(0), node.input(1), sole(grads)
    batch, depth = int(node.attribute("batch_dims", 0)), index.shape[-1]
    lead = math.prod(x.shape[: batch + depth])
    ids = flat_rows(b, index, x.shape, batch)
    rows = b.wide(b.reshape(dy, (ids.size, x.size // lead)))
    return {0: b.reshape(_sum_rows(b, node, ids, rows, lead), x.shape)}


def flat_rows(b: Builder, index: Var, shape: Shape, batch: int = 0) -> Var:
    """Which row of the first axes, taken as one, each index [..., depth] names; the first `batch` axes are its own."""
    depth, count = index.shape[-1], index.size // index.shape[-1]
    sizes = shape[batch : batch + depth]
    table = b.reshape(b.cast(index, TensorProto.INT64), (count, depth))
    wrapped = b.where(b.compare("Less", table, 0), b.add(table, b.ints(sizes)), table)
    strides = b.ints(math.prod(sizes[i + 1 :]) for i in range(depth))
    flat = b.sum(b.mul(wrapped, strides), [1], keepdims=False)
    batches = math.prod(shape[:batch])
    if batches == 1:
        return flat
    return b.add(flat, b.constant(np.repeat(np.arange(batches) * math.prod(sizes), count // batches)))
