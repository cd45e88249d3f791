"""Calls of planc's own operators as ONNX: a function of standard operators each, and the node that uses it.

A function's name is made of what it computes: the operator, then a hash of the body, which depends on attributes and
operand types. So equal calls share one, and a model cannot give a name another meaning.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from planc.errors import ModelError
from planc.kernels.operator import DOMAIN, VERSION, Attribute, Call, TensorType, operator_named

OPSET = 18
"""Operator set that the bodies are written in."""

_HASH = 16
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


def function_of(call: Call, opset: int = OPSET) -> onnx.FunctionProto:
    """The ONNX function of a call, named by what it computes, for a model of operator set `opset`, in which the operators
    of bodies mean the same as in `OPSET`. Raises ModelError for operands that do not fit."""
    operator, outputs = call.operator, call.outputs
    inputs = operator.inputs[: len(call.inputs)]
    body = Body(inputs)
    made = list(operator.meaning(call, body))
    names = [f"to_{name}" for name in operator.outputs[: len(outputs)]]
    for source, name in zip(made, names, strict=True):
        body.nodes.append(helper.make_node("Identity", [source], [name]))
    function = helper.make_function(
        DOMAIN,
        operator.name,
        list(inputs),
        names,
        body.nodes,
        [helper.make_opsetid("", OPSET)],
        sorted(call.attributes),
    )
    content = function.SerializeToString(deterministic=True) + repr(_key(call)).encode()
    function.name = f"{operator.name}_{hashlib.sha256(content).hexdigest()[:_HASH]}"
    function.opset_import[0].version = opset
    return function


def _key(call: Call) -> tuple[Any, ...]:
    """What a call is, for hashing: attributes by name and operand types."""
    return VERSION, sorted(call.attributes.items()), [(t.dtype, t.shape) for t in call.inputs]


def node_of(call: Call, inputs: Sequence[str], outputs: Sequence[str]) -> onnx.NodeProto:
    """The node that makes `outputs` of `inputs`; the model must hold `function_of(call)`."""
    attributes: dict[str, Any] = dict(sorted(call.attributes.items()))
    return helper.make_node(function_of(call).name, list(inputs), list(outputs), domain=DOMAIN, **attributes)


def call_of(node: onnx.NodeProto, types: Mapping[str, TensorType | tuple[int, tuple[int, ...]]]) -> Call:
    """The call that a node of planc's domain stands for, given the types of tensors by name.

    Raises ModelError when there is no such operator, or the name is not that of what operator, attributes and types say.
    """
    operator = operator_named(node.op_type.rpartition("_")[0])
    attributes = {a.name: _value(helper.get_attribute_value(a)) for a in node.attribute}
    call = operator.call([TensorType(*types[name]) for name in node.input], **attributes)
    expected = function_of(call).name
    if node.op_type != expected:
        raise ModelError(
            f"node {node.name!r}: {DOMAIN}.{node.op_type} is called with operands or attributes of {expected}; "
            "build the training graph again with this version of planc"
        )
    return call


def _value(value: Any) -> Attribute:
    if isinstance(value, bytes):
        return value.decode()
    return tuple(value) if isinstance(value, (list, tuple)) else value


def checked_functions(model: onnx.ModelProto) -> dict[str, onnx.FunctionProto]:
    """The functions of planc's domain that a model holds, by name."""
    return {function.name: function for function in model.functions if function.domain == DOMAIN}


def opset_id() -> onnx.OperatorSetIdProto:
    """The import that a model with planc's own operators needs."""
    return helper.make_opsetid(DOMAIN, VERSION)
