"""Writes the body of an operator's function, node by node."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

_HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


class Body:
    """The body of a function: appends nodes of the standard domain; tensors go by their names."""

    def __init__(self, inputs: Sequence[str]) -> None:
        self.inputs = tuple(inputs)
        self.nodes: list[onnx.NodeProto] = []
        self._constants: dict[bytes, str] = {}

    def op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """One node with one output, whose name is returned."""
        return self.ops(op_type, inputs, 1, **attributes)[0]

    def ops(self, op_type: str, inputs: Sequence[str], outputs: int, **attributes: Any) -> list[str]:
        """One node with `outputs` outputs."""
        names = [f"v{len(self.nodes)}_{k}" if k else f"v{len(self.nodes)}" for k in range(outputs)]
        self.nodes.append(helper.make_node(op_type, list(inputs), names, **dict(sorted(attributes.items()))))
        return names

    def constant(self, value: npt.NDArray[Any]) -> str:
        """A tensor known in advance; equal ones are one."""
        tensor = numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape))
        key = tensor.SerializeToString(deterministic=True)
        if key not in self._constants:
            self._constants[key] = self.op("Constant", value=tensor)
        return self._constants[key]

    def ints(self, *numbers: int) -> str:
        """An int64 vector."""
        return self.constant(np.array(numbers, np.int64))

    def number(self, value: float, dtype: int = TensorProto.FLOAT) -> str:
        """A scalar of an element type."""
        return self.constant(np.array(value, helper.tensor_dtype_to_np_dtype(dtype)))

    def reshape(self, a: str, shape: Sequence[int]) -> str:
        """`a` under another shape."""
        return self.op("Reshape", a, self.ints(*shape))

    def transpose(self, a: str, perm: Sequence[int]) -> str:
        """`a` with its axes permuted; nothing where they stay."""
        return a if list(perm) == list(range(len(perm))) else self.op("Transpose", a, perm=list(perm))

    def sum(self, a: str, axes: Sequence[int], keepdims: bool = True) -> str:
        """The sum over `axes`."""
        return self.op("ReduceSum", a, self.ints(*axes), keepdims=int(keepdims))

    def mean(self, a: str, axes: Sequence[int], keepdims: bool = True) -> str:
        """The mean over `axes`."""
        return self.op("ReduceMean", a, self.ints(*axes), keepdims=int(keepdims))

    def slice(self, a: str, axis: int, start: int, end: int, step: int = 1) -> str:
        """`a` restricted along one axis to [start, end)."""
        return self.op("Slice", a, self.ints(start), self.ints(end), self.ints(axis), self.ints(step))

    def wide(self, a: str, dtype: int) -> str:
        """`a`, of element type `dtype`, in float32 where that is a half: arithmetic is done in float32."""
        return self.op("Cast", a, to=TensorProto.FLOAT) if dtype in _HALVES else a

    def narrow(self, a: str, dtype: int) -> str:
        """The float32 result `a` in the element type `dtype` where that is a half."""
        return self.op("Cast", a, to=dtype) if dtype in _HALVES else a
