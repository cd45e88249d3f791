"""Mixed precision (Micikevicius et al., Mixed precision training, 2018): half-precision arithmetic, float32 masters.

A float32 model can be turned into one that computes in float16 or bfloat16; a model with half-precision parameters
gets float32 masters. Either way a parameter is a float32 initializer that a Cast, a layer of its own, narrows for its
readers: cheap to recompute, so that a plan need not keep the narrow copy. Batch-norm's vectors stay float32.
"""

from collections.abc import Collection, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from planc.errors import UsageError
from planc.graph.annotations import annotate_node, node_annotation
from planc.training.emit.builder import HALVES, Array

PRECISIONS = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}

_KEPT = {"BatchNormalization": (1, 2, 3, 4), "Resize": (1, 2), "Dropout": (1,)}
"""Input positions that stay float32: statistics, and settings that ONNX types independently of the data."""


def narrow(model: onnx.ModelProto, precision: str) -> dict[str, Array]:
    """Turn a float32 model into one of `precision`, in place; returns the float32 values of what it rounded.

    Batch inputs stay float32 and are narrowed by a Cast. Raises UsageError for an unknown precision.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"unknown precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
    dtype = PRECISIONS[precision]
    if dtype == TensorProto.FLOAT:
        return {}
    graph, originals = model.graph, {}
    kept = _kept_names(graph)
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.name not in kept:
            originals[tensor.name] = numpy_helper.to_array(tensor)
            rounded = _rounded(originals[tensor.name], dtype)
            tensor.CopyFrom(numpy_helper.from_array(rounded, tensor.name))
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = dtype
    floats = [i.name for i in graph.input if i.type.tensor_type.elem_type == TensorProto.FLOAT]
    _insert_casts(graph, dict.fromkeys((n for n in floats if n not in kept), dtype))
    for info in graph.output:
        if info.type.tensor_type.elem_type == TensorProto.FLOAT:
            info.type.tensor_type.elem_type = dtype
    return originals


def master_weights(model: onnx.ModelProto, parameters: Collection[str], originals: Mapping[str, Array]) -> None:
    """Give half-precision `parameters` float32 initializers, narrowed by a Cast, in place."""
    dtypes = {}
    for tensor in model.graph.initializer:
        if tensor.name in parameters and tensor.data_type in HALVES:
            dtypes[tensor.name] = tensor.data_type
            exact = originals.get(tensor.name)
            wide = numpy_helper.to_array(tensor).astype("float32") if exact is None else exact
            tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))
    _insert_casts(model.graph, dtypes)


def _rounded(array: Array, dtype: int) -> Array:
    """`array` in the half type `dtype`; what lies beyond its range, as a mask of -1e9 does, becomes its extreme."""
    extreme = 65504.0 if dtype == TensorProto.FLOAT16 else np.finfo(np.float32).max
    return np.clip(array, -extreme, extreme).astype(helper.tensor_dtype_to_np_dtype(dtype))


def _kept_names(graph: onnx.GraphProto) -> set[str]:
    return {node.input[i] for node in graph.node for i in _KEPT.get(node.op_type, ()) if i < len(node.input)}


def _insert_casts(graph: onnx.GraphProto, dtypes: Mapping[str, int]) -> None:
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
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _cast(name: str, narrowed: str, dtype: int) -> onnx.NodeProto:
    node = helper.make_node("Cast", [name], [narrowed], name=narrowed, to=dtype)
    annotate_node(node, narrowed, "cast", "forward")
    return node
