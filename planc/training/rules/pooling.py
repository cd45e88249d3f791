"""Gradients of pooling operators."""

import math

from onnx import TensorProto

from planc.errors import ModelError
from planc.training.builder import Builder
from planc.training.registry import ForwardNode, Gradients, Lowered, OutputGradients, gradient, lowering, sole

_INT32_MAX = 2**31 - 1


@lowering("MaxPool")
def lower_max_pool(b: Builder, node: ForwardNode) -> Lowered:
    """MaxPool with its second output, the flat index of each maximum over the whole [N, C, ...] tensor.

    The indices are narrowed to four bytes where they fit, half of what the operator gives.
    """
    x, y = node.input(0), node.output
    if node.attribute("storage_order", 0):
        raise ModelError(f"{node.where}: storage_order 1 is not supported; use the default row-major order")
    attributes = {k: v for k, v in node.attributes.items() if k != "storage_order"}
    _, indices = b.emit(
        "MaxPool", [x], [(y.shape, y.dtype), (y.shape, TensorProto.INT64)], [y.name], **attributes
    )  # fmt: skip
    narrow = TensorProto.INT32 if x.size <= _INT32_MAX else TensorProto.INT64
    return Lowered({"indices": b.cast(indices, narrow)})


@gradient("MaxPool")
def max_pool(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """Each output's gradient goes to its maximum; overlapping windows add up."""
    x, dy, indices = node.input(0), sole(grads), node.saved["indices"]
    zeros = b.op("ConstantOfShape", [b.ints([x.size])], (x.size,), x.dtype)
    flat = [b.reshape(v, (dy.size,)) for v in (indices, dy)]
    return {0: b.reshape(b.op("ScatterElements", [zeros, *flat], (x.size,), axis=0, reduction="add"), x.shape)}


@gradient("GlobalAveragePool")
def global_average_pool(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """dx = dy / (number of positions) everywhere."""
    x, dy = node.input(0), sole(grads)
    return {0: b.expand(b.mul(dy, 1 / math.prod(x.shape[2:])), x.shape)}
