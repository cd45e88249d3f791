"""Mixed precision (Micikevicius et al., Mixed precision training, 2018): half-precision arithmetic, float32 masters.

A float32 model can be turned into one that computes in float16 or bfloat16 where `torch.autocast` would, or into one whose
parameters are half precision too; a model that comes with half-precision parameters gets float32 masters. A master is a
float32 initializer that a Cast, a layer of its own, narrows for its readers: cheap to recompute, so that a plan need not
keep the narrow copy.
"""

from collections.abc import Collection
from dataclasses import dataclass

import onnx
from onnx import TensorProto, numpy_helper

from planc.errors import UsageError
from planc.graph.wellformed import is_undrawn
from planc.training.emit.builder import HALVES
from planc.training.emit.opset import knows_bfloat16
from planc.training.prepare.autocast import autocast
from planc.training.prepare.casts import insert_casts, rounded
from planc.training.prepare.prepare import infer_shapes


@dataclass(frozen=True)
class Precision:
    """The type that products run in; `pure` where parameters and optimizer state have it too."""

    dtype: int = TensorProto.FLOAT
    pure: bool = False


PRECISIONS = {
    "float32": Precision(),
    "float16": Precision(TensorProto.FLOAT16),
    "bfloat16": Precision(TensorProto.BFLOAT16),
    "pure-bfloat16": Precision(TensorProto.BFLOAT16, pure=True),
}

_SHORT = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "pure-bf16": "pure-bfloat16"}

_KEPT = {"BatchNormalization": (1, 2, 3, 4), "Resize": (1, 2), "Dropout": (1,)}
"""Input positions that stay float32 in a pure model: statistics, and settings that ONNX types apart from the data."""


def precision_of(name: str) -> Precision:
    """The precision of that name. Raises UsageError for an unknown one."""
    known = _SHORT.get(name, name)
    if known not in PRECISIONS:
        raise UsageError(f"unknown precision {name!r}: choose one of {', '.join((*PRECISIONS, *_SHORT))}")
    return PRECISIONS[known]


def set_precision(model: onnx.ModelProto, name: str, trained: Collection[str]) -> None:
    """Let `model`, canonical and with inferred shapes, compute in the precision of that name, in place.

    Batch inputs keep their type. Raises UsageError for an unknown precision, ModelError for a model whose operators
    cannot be brought to an opset that has them in bfloat16.
    """
    precision = precision_of(name)
    if precision.dtype == TensorProto.BFLOAT16:
        knows_bfloat16(model)
    if precision.pure:
        _narrow(model, precision.dtype)
        return
    _give_masters(model, trained)
    if precision.dtype != TensorProto.FLOAT:
        autocast(infer_shapes(model), precision.dtype, trained)


def _give_masters(model: onnx.ModelProto, parameters: Collection[str]) -> None:
    """Give half-precision `parameters` float32 initializers, narrowed by a Cast, in place."""
    dtypes = {}
    for tensor in model.graph.initializer:
        if tensor.name in parameters and tensor.data_type in HALVES:
            dtypes[tensor.name] = tensor.data_type
            wide = numpy_helper.to_array(tensor).astype("float32")
            tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))
    insert_casts(model.graph, dtypes)


def _narrow(model: onnx.ModelProto, dtype: int) -> None:
    """Round every float32 initializer, and let the whole model compute in `dtype`."""
    graph = model.graph
    kept = {node.input[i] for node in graph.node for i in _KEPT.get(node.op_type, ()) if i < len(node.input)}
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or tensor.name in kept:
            continue
        if is_undrawn(tensor):
            tensor.data_type = dtype
        else:
            tensor.CopyFrom(numpy_helper.from_array(rounded(numpy_helper.to_array(tensor), dtype), tensor.name))
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = dtype
    floats = [i.name for i in graph.input if i.type.tensor_type.elem_type == TensorProto.FLOAT]
    insert_casts(graph, dict.fromkeys((n for n in floats if n not in kept), dtype))
    del graph.value_info[:]
    for info in graph.output:
        if info.type.tensor_type.elem_type == TensorProto.FLOAT:
            info.type.tensor_type.elem_type = dtype
