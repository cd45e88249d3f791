"""Calls of planc's own operators with what they give: by their meaning, and by their kernel on the host."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import helper

from planc.graph.annotations import IR_VERSION
from planc.kernels import Call, Operator, TensorType, function_of, node_of, opset_id
from planc.kernels.device import SourceKernel, Variants
from planc.runtime.ort.sessions import faithful_options
from support import host_cuda

Array = npt.NDArray[Any]


def call_on(operator: Operator, arrays: Sequence[Array], **attributes: Any) -> Call:
    """The call of an operator on arrays of these types and shapes."""
    types = [TensorType(int(helper.np_dtype_to_tensor_dtype(a.dtype)), a.shape) for a in arrays]
    return operator.call(types, **attributes)


def blank(call: Call) -> list[Array]:
    """Outputs of a call, filled with a number that no kernel gives."""
    return [_aligned(np.full(t.shape, 77, helper.tensor_dtype_to_np_dtype(t.dtype))) for t in call.outputs]


def by_meaning(call: Call, arrays: Sequence[Array]) -> list[Array]:
    """What ONNX Runtime's CPU provider makes of the operator's function."""
    names, ends = [f"i{k}" for k in range(len(arrays))], [f"o{k}" for k in range(len(call.outputs))]
    ins = [helper.make_tensor_value_info(n, *t) for n, t in zip(names, call.inputs, strict=True)]
    outs = [helper.make_tensor_value_info(n, *t) for n, t in zip(ends, call.outputs, strict=True)]
    graph = helper.make_graph([node_of(call, names, ends)], "call", ins, outs)
    opsets = [helper.make_opsetid("", 18), opset_id()]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, functions=[function_of(call)])
    onnx.checker.check_model(model)
    session = ort.InferenceSession(model.SerializeToString(), faithful_options(), providers=["CPUExecutionProvider"])
    binding, results = session.io_binding(), blank(call)
    for name, array, kind in zip(names, arrays, call.inputs, strict=True):
        binding.bind_input(name, "cpu", 0, kind.dtype, kind.shape, np.ascontiguousarray(array).ctypes.data)
    for name, array, kind in zip(ends, results, call.outputs, strict=True):
        binding.bind_output(name, "cpu", 0, kind.dtype, kind.shape, array.ctypes.data)
    session.run_with_iobinding(binding)
    return results


def by_kernel(call: Call, arrays: Sequence[Array], narrow: bool = False, variant: str = "") -> list[Array]:
    """What the operator's CUDA source gives, run on the host; the kernel for any address where `narrow`."""
    kernel = call.operator.cuda(call) if call.operator.cuda else None
    if isinstance(kernel, Variants):
        kernel = kernel.kernels[variant]
    assert isinstance(kernel, SourceKernel)
    results = blank(call)
    chosen = kernel.narrow if narrow else kernel
    assert chosen is not None
    host_cuda.run(chosen, [_aligned(a) for a in arrays], results)
    return results


def _aligned(values: Array) -> Array:
    """A copy that begins at a multiple of 64 bytes."""
    room = np.empty(values.nbytes + 64, np.uint8)
    start = -room.ctypes.data % 64
    copy = room[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
    copy[...] = values
    return copy
