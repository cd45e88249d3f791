"""Which tensors of a forward model are trained."""

import math
from collections.abc import Collection

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from planc.errors import ModelError
from planc.training.emit.builder import FLOATS

_WEIGHT_POSITIONS = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (0, 1, 2),
    "MatMul": (0, 1),
    "BatchNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "RMSNormalization": (1,),
    "PRelu": (1,),
    "Gather": (0,),
    "Einsum": (0, 1),
    "Concat": tuple(range(256)),
}
_ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div", "Sum"})
_VIEWS = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Cast", "Expand", "Split"})


def trainable(model: onnx.ModelProto, chosen: Collection[str] | None = None) -> list[str]:
    """Names of the trained initializers, in the order of their first use.

    Given `chosen`, exactly those; raises ModelError for a name that is no float initializer. Otherwise every float
    initializer of rank one or more that some operator reads, directly or through views, as a weight: the weights,
    biases and scales of layers, the table of a Gather, tokens concatenated to activations, and operands of
    Add, Sub, Mul, Div when they are a vector per channel (at most one axis longer than one) or hold more than two
    distinct values. The last clause keeps masks and scalar constants of the arithmetic out.
    """
    candidates = {
        t.name: t for t in model.graph.initializer if t.data_type in FLOATS and (chosen is not None or t.dims)
    }
    if chosen is not None:
        for name in chosen:
            if name not in candidates:
                raise ModelError(f"parameter {name!r} is not a float initializer of the model")
    origin = {name: name for name in candidates}
    found: dict[str, None] = {}
    for node in model.graph.node:
        if node.op_type in _VIEWS and node.input[0] in origin:
            origin.update(dict.fromkeys(node.output, origin[node.input[0]]))
        for position, name in enumerate(node.input):
            source = origin.get(name)
            if source is not None and (
                source in chosen if chosen is not None else _is_weight(node, position, candidates[source])
            ):
                found[source] = None
    return list(found)


def untrained(forward: onnx.ModelProto, trained: Collection[str]) -> list[str]:
    """Float initializers of more than one element that the step reads but does not train."""
    read = {name for node in forward.graph.node for name in node.input}
    floats = (t for t in forward.graph.initializer if t.data_type in FLOATS and math.prod(t.dims) > 1 and t.dims)
    return [t.name for t in floats if t.name in read and t.name not in trained]


def _is_weight(node: onnx.NodeProto, position: int, tensor: TensorProto) -> bool:
    if node.op_type in _ARITHMETIC:
        long_axes = [d for d in tensor.dims if d != 1]
        return len(long_axes) == 1 or (len(long_axes) > 1 and len(np.unique(numpy_helper.to_array(tensor))) > 2)
    return position in _WEIGHT_POSITIONS.get(node.op_type, ())
