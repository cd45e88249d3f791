"""Casts that a model is given: constants rounded once and for all, inputs and parameters narrowed for their readers."""

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper

from planc.graph.annotations import annotate_node, node_annotation
from planc.graph.nodes import replace_nodes
from planc.training.emit.builder import HALVES, Array

_LARGEST: dict[int, float] = {TensorProto.FLOAT16: 65504.0, TensorProto.BFLOAT16: float.fromhex("0x1.fep127")}


def rounded(array: Array, dtype: int) -> Array:
    """`array` in the type `dtype`; what lies beyond the range of a half type, as a mask of -1e9 does, becomes its
    extreme; infinities stay."""
    if dtype not in HALVES:
        return array.astype(helper.tensor_dtype_to_np_dtype(dtype))
    half, extreme = helper.tensor_dtype_to_np_dtype(dtype), _LARGEST[dtype]
    return np.where(np.isinf(array), array, np.clip(array, -extreme, extreme)).astype(half)


def insert_casts(graph: onnx.GraphProto, dtypes: Mapping[str, int]) -> None:
    """Read each tensor of `dtypes` through a Cast to its type, placed before the layer of its first reader."""
    narrowed = {name: f"{name}.narrow" for name in dtypes}
    nodes: list[onnx.NodeProto] = []
    made: set[str] = set()
    start, previous = 0, None
    for node in graph.node:
        layer = node_annotation(node)
        if layer is None or layer != previous:
            start, previous = len(nodes), layer
        for position, name in enumerate(node.input):
            if name not in narrowed:
                continue
            if name not in made:
                made.add(name)
                nodes.insert(start, _cast(name, narrowed[name], dtypes[name]))
                start += 1
            node.input[position] = narrowed[name]
        nodes.append(node)
    replace_nodes(graph, nodes)


def _cast(name: str, narrowed: str, dtype: int) -> onnx.NodeProto:
    node = helper.make_node("Cast", [name], [narrowed], name=narrowed, to=dtype)
    annotate_node(node, narrowed, "cast", "forward")
    return node
