"""Runs one call of an operator of planc's own by its function on the CPU."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import helper

from planc.kernels import Call, Operator, TensorType, function_of, node_of, opset_id
from planc.runtime.ort.sessions import faithful_options

Array = npt.NDArray[Any]


def call_for(operator: Operator, arrays: Sequence[Array], **attributes: Any) -> Call:
    """The call of the operator on arrays."""
    types = [TensorType(int(helper.np_dtype_to_tensor_dtype(a.dtype)), a.shape) for a in arrays]
    return operator.call(types, **attributes)


def by_function(call: Call, arrays: Sequence[Array]) -> list[Array]:
    """What the call's ONNX function makes of arrays, by ONNX Runtime on the CPU."""
    inputs = [f"i{k}" for k in range(len(arrays))]
    outputs = [f"o{k}" for k in range(len(call.outputs))]
    graph = helper.make_graph(
        [node_of(call, inputs, outputs)],
        "call",
        [helper.make_tensor_value_info(n, t.dtype, t.shape) for n, t in zip(inputs, call.inputs, strict=True)],
        [helper.make_tensor_value_info(n, t.dtype, t.shape) for n, t in zip(outputs, call.outputs, strict=True)],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18), opset_id()], functions=[function_of(call)], ir_version=10
    )
    onnx.checker.check_model(model)
    session = ort.InferenceSession(model.SerializeToString(), faithful_options(), providers=["CPUExecutionProvider"])
    found: list[Array] = session.run(None, dict(zip(inputs, arrays, strict=True)))
    return found


def last(a: Array) -> Array:
    """[N, C, ...] as [N, ..., C]."""
    return np.ascontiguousarray(np.moveaxis(a, 1, -1)).astype(np.float32)


def empty_like(call: Call) -> list[Array]:
    """Outputs full of NaN or of 255."""
    found = []
    for type_ in call.outputs:
        array: Array = np.empty(type_.shape, helper.tensor_dtype_to_np_dtype(type_.dtype))
        array.view(np.uint8)[...] = 0xFF
        found.append(array)
    return found
