"""Which nodes of a step are parts of element-wise chains, that is, of one kernel on a card for all of a layer's."""

import onnx
from onnx import helper

from planc.graph.annotations import node_annotation
from planc.graph.fused import is_fusable
from planc.training.emit.builder import Builder


def is_link(b: Builder, node: onnx.NodeProto) -> bool:
    """Whether the node is one that a chain of its layer may hold."""
    if node_annotation(node) is None or len(node.output) != 1 or not all(node.input):
        return False
    dtypes = [_numpy_name(b.values[name].dtype) for name in node.input]
    return is_fusable(node.op_type, node.domain, dtypes, _numpy_name(b.values[node.output[0]].dtype))


def _numpy_name(dtype: int) -> str:
    return str(helper.tensor_dtype_to_np_dtype(dtype).name)
