"""What a node computes from constants alone, within bounds that are looked at before any work.

A model may hold a few bytes that unfold to gigabytes: ConstantOfShape, Range, Expand, Tile, Pad. So the sizes of
results are inferred first, and slow operators are evaluated for small operands only.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

_SWIFT = frozenset(
    {
        "Abs", "Add", "And", "Cast", "CastLike", "Ceil", "Clip", "Concat", "Constant", "ConstantOfShape", "Cos", "Div",
        "Equal", "Exp", "Expand", "EyeLike", "Flatten", "Floor", "Gather", "GatherElements", "GatherND", "Greater",
        "GreaterOrEqual", "Identity", "IsInf", "IsNaN", "Less", "LessOrEqual", "Log", "Max", "Mean", "Min", "Mod", "Mul",
        "Neg", "Not", "OneHot", "Or", "Pad", "Pow", "Range", "Reciprocal", "ReduceMax", "ReduceMean", "ReduceMin",
        "ReduceProd", "ReduceSum", "Reshape", "Round", "ScatterElements", "ScatterND", "Shape", "Sigmoid", "Sign", "Sin",
        "Size", "Slice", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tanh", "Tile", "Transpose", "Trilu", "Unsqueeze",
        "Where", "Xor",
    }
)  # fmt: skip
"""Operators whose evaluation takes a few passes of NumPy over operands and results."""

_SLOW_ELEMENTS = 1 << 16
"""Elements of operands and results up to which any other operator is evaluated: loops of Python, products of matrices."""

_EINSUM_STEPS = 1 << 20
"""Multiplications of an Einsum at most: the product of all its axes."""


def evaluated(
    node: onnx.NodeProto, operands: Mapping[str, TensorProto], model: onnx.ModelProto, limit: int
) -> dict[str, npt.NDArray[Any]] | None:
    """The results of `node` by name, for a model of these operator sets, given the values of all its inputs.

    None where they might take more than `limit` bytes, or long, and where ONNX's reference fails at it: it does at some
    valid nodes too.
    """
    from onnx.reference import ReferenceEvaluator  # takes a while to import, and few models need it

    single = _single(node, operands, model)
    try:
        inferred = onnx.shape_inference.infer_shapes(single, check_type=True, strict_mode=True)
        sizes = [_type_of(info) for info in inferred.graph.output]
        if not _is_small(node, operands, sizes, limit):
            return None
        results: Any = ReferenceEvaluator(single).run(None, {})
    except Exception:  # an evaluator's errors are of every type; what it is given is a file's
        return None
    if not all(isinstance(result, np.ndarray | np.generic) for result in results):
        return None  # a sequence or an optional value
    return dict(zip((o for o in node.output if o), map(np.asarray, results), strict=True))


def _single(node: onnx.NodeProto, operands: Mapping[str, TensorProto], model: onnx.ModelProto) -> onnx.ModelProto:
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    values = [operands[name] for name in dict.fromkeys(node.input) if name]
    graph = helper.make_graph([node], "constants", [], outputs, values)
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=max(model.ir_version, 8))


def _type_of(info: onnx.ValueInfoProto) -> tuple[int, int] | None:
    """(elements, bytes) of a tensor of known shape."""
    tensor = info.type.tensor_type
    if not tensor.HasField("shape") or any(not d.HasField("dim_value") or d.dim_value < 0 for d in tensor.shape.dim):
        return None
    count = math.prod(d.dim_value for d in tensor.shape.dim)
    if tensor.elem_type in (TensorProto.STRING, TensorProto.UNDEFINED):
        return None
    return count, count * helper.tensor_dtype_to_np_dtype(tensor.elem_type).itemsize


def _is_small(
    node: onnx.NodeProto, operands: Mapping[str, TensorProto], sizes: list[tuple[int, int] | None], limit: int
) -> bool:
    read = sum(math.prod(operands[name].dims) for name in node.input if name)
    known = [size for size in sizes if size is not None]
    if sum(size for _, size in known) > limit:
        return False
    if node.op_type in _SWIFT and len(known) == len(sizes):
        return True
    if node.op_type == "Einsum":
        axes = {dim for name in node.input for dim in enumerate(operands[name].dims)}
        count = sum(len(operands[name].dims) for name in node.input)
        longest = max((size for _, size in axes), default=1)
        return bool(longest**count <= _EINSUM_STEPS)
    return read + sum(count for count, _ in known) <= _SLOW_ELEMENTS and node.op_type not in ("Loop", "Scan", "If")
