"""Gradients of indexing operators: rows of the output's gradient return to the rows they came from."""

from planc.errors import ModelError
from planc.training.builder import Builder, Value
from planc.training.registry import ForwardNode, Gradients, OutputGradients, gradient, sole


@gradient("Gather")
def gather(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """Sum over equal indices, in a form that is bit-for-bit repeatable on the device."""
    table, ids, dy = node.input(0), node.input(1), sole(grads)
    axis = int(node.attribute("axis", 0)) % table.rank
    if axis != 0:
        raise ModelError(f"{node.where}: the gradient of Gather along axis {axis} is not supported; transpose first")
    width = table.size // table.shape[0]
    rows = b.reshape(dy, (ids.size, width))
    flat_ids = b.reshape(ids, (ids.size, 1))
    return {0: b.reshape(_scatter_rows(b, flat_ids, rows, table.shape[0]), table.shape)}


def _scatter_rows(b: Builder, ids: Value, rows: Value, count: int) -> Value:
    """[count, D] with row ids[i] the sum of the rows [R, D] of that id; ScatterElements is sequential on the CPU."""
    zeros = b.op("ConstantOfShape", [b.ints([count, rows.shape[1]])], (count, rows.shape[1]), rows.dtype)
    index = b.expand(ids, rows.shape)
    return b.op("ScatterElements", [zeros, index, rows], zeros.shape, axis=0, reduction="add")
