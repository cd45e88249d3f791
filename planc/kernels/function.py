"""Calls of planc's own operators as ONNX: a function of standard operators each, and the node that uses it.

A function's name is made of what it computes: the operator, then a hash of the body, which depends on attributes and
operand types. So equal calls share one, and a model cannot give a name another meaning.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import onnx
from onnx import helper

from planc.errors import ModelError
from planc.kernels.body import Body
from planc.kernels.operator import DOMAIN, VERSION, Attribute, Call, TensorType, operator_named

OPSET = 18
"""Operator set that the bodies are written in."""

_HASH = 16


def function_of(call: Call, opset: int = OPSET) -> onnx.FunctionProto:
    """The ONNX function of a call, named by what it computes, for a model of operator set `opset`, in which the operators
    of bodies mean the same as in `OPSET`. Raises ModelError for operands that do not fit."""
    function = onnx.FunctionProto()
    function.CopyFrom(_made(_Keyed.of(call)))
    function.opset_import[0].version = opset
    return function


@dataclass(frozen=True)
class _Keyed:
    """A call by its content: a network has few that differ, and asks for each of them many times."""

    operator: int
    key: str
    call: Call = field(compare=False)

    @classmethod
    def of(cls, call: Call) -> "_Keyed":
        """By the operator's identity, which it keeps as long as a call of it is cached."""
        return cls(id(call.operator), repr(_key(call)), call)


@lru_cache(maxsize=1024)
def _made(of: _Keyed) -> onnx.FunctionProto:
    call = of.call
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
    content = function.SerializeToString(deterministic=True) + of.key.encode()
    function.name = f"{operator.name}_{hashlib.sha256(content).hexdigest()[:_HASH]}"
    return function


def _name_of(call: Call) -> str:
    return _made(_Keyed.of(call)).name


def _key(call: Call) -> tuple[Any, ...]:
    """What a call is, for hashing: attributes by name and operand types."""
    return VERSION, sorted(call.attributes.items()), [(t.dtype, t.shape) for t in call.inputs]


def node_of(call: Call, inputs: Sequence[str], outputs: Sequence[str]) -> onnx.NodeProto:
    """The node that makes `outputs` of `inputs`; the model must hold `function_of(call)`."""
    attributes: dict[str, Any] = dict(sorted(call.attributes.items()))
    return helper.make_node(_name_of(call), list(inputs), list(outputs), domain=DOMAIN, **attributes)


def call_of(node: onnx.NodeProto, types: Mapping[str, TensorType | tuple[int, tuple[int, ...]]]) -> Call:
    """The call that a node of planc's domain stands for, given the types of tensors by name.

    Raises ModelError when there is no such operator, or the name is not that of what operator, attributes and types say.
    """
    operator = operator_named(node.op_type.rpartition("_")[0])
    attributes = {a.name: _value(helper.get_attribute_value(a)) for a in node.attribute}
    call = operator.call([TensorType(*types[name]) for name in node.input], **attributes)
    expected = _name_of(call)
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
