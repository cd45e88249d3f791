"""Sums over the leading axes of a tensor, and over all of it, repeat their bits on a card.

ONNX Runtime's CUDA provider adds the parts of such a sum by atomics, whose order is that of the moment: ConvNeXt, whose
layer scales have gradients over 100,352 rows, differed between a planned and an unplanned step (H200). Whatever rule or
pass wrote the reduction, here it becomes planc's own, in float32 and in a fixed order.
"""

import math
from collections.abc import Sequence

import onnx

from planc.kernels.row_sum import ROW_SUM
from planc.kernels.source import C_TYPES
from planc.training.emit.builder import Builder, Var
from planc.training.layout.calls import emitted
from planc.training.registry import attributes_of

_REDUCTIONS = ("ReduceSum", "ReduceMean", "ReduceSumSquare")

_COLUMNS = 256
"""Of the matrix that a tensor is taken for when all its elements are summed."""


def repeatable_sums(b: Builder, nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """The nodes, every reduction over leading axes by planc's own operator."""
    found: list[onnx.NodeProto] = []
    for node in nodes:
        columns = _columns(b, node) if node.op_type in _REDUCTIONS and not node.domain else None
        found += [node] if columns is None else _written(b, node, columns)
    _read_through_views(found)
    return found


def _read_through_views(nodes: Sequence[onnx.NodeProto]) -> None:
    """No view of a view: what a reshape reads is no reshape's result."""
    viewed: dict[str, str] = {}
    for node in (n for n in nodes if n.op_type == "Reshape" and not n.domain):
        node.input[0] = viewed.get(node.input[0], node.input[0])
        viewed[node.output[0]] = node.input[0]


def _columns(b: Builder, node: onnx.NodeProto) -> int | None:
    """Elements of each row that is summed; None where the reduction is over other axes, or over one row."""
    x = b.values[node.input[0]]
    axes = _axes(b, node, x.rank)
    long = [axis for axis, size in enumerate(x.shape) if size != 1]
    summed = [axis for axis in long if axis in axes]
    if x.dtype not in C_TYPES or not x.size or not summed or summed != long[: len(summed)]:
        return None
    return math.prod(x.shape[axis] for axis in long[len(summed) :])


def _axes(b: Builder, node: onnx.NodeProto, rank: int) -> list[int]:
    """The axes that a reduction sums over; none where they are not known in advance."""
    attributes = attributes_of(node)
    listed = attributes.get("axes", ())
    if len(node.input) > 1 and node.input[1]:
        known = b.known_array(node.input[1])
        if known is None:
            return []
        listed = known.ravel().tolist()
    if not len(listed):
        return [] if attributes.get("noop_with_empty_axes", 0) else list(range(rank))
    return [int(axis) % rank for axis in listed]


def _written(b: Builder, node: onnx.NodeProto, columns: int) -> list[onnx.NodeProto]:
    """The reduction's result, under its name, by sums of rows in the reduction's layer."""
    return emitted(b, node, lambda: _emit(b, node, columns))


def _emit(b: Builder, node: onnx.NodeProto, columns: int) -> None:
    x, y = b.values[node.input[0]], b.values[node.output[0]]
    squares = int(node.op_type == "ReduceSumSquare")
    width = columns if columns > 1 else math.gcd(x.size, _COLUMNS)
    summed = b.kernel(ROW_SUM, [_matrix(b, x, width)], squares=squares)[0]
    if columns == 1 < width:
        summed = b.kernel(ROW_SUM, [_matrix(b, summed, 1)])[0]
    if node.op_type == "ReduceMean":
        summed = b.mul(summed, columns / x.size)
    b.op("Reshape", [b.cast(summed, y.dtype), b.ints(y.shape)], y.shape, name=y.name)


def _matrix(b: Builder, a: Var, columns: int) -> Var:
    """`a` as rows of so many elements; not by way of what `a` is a view of, which may be gone by now."""
    shape = (a.size // columns, columns)
    return a if a.shape == shape else b.op("Reshape", [a, b.ints(shape)], shape)
