"""Writes function bodies: nodes in order, constants where they are needed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from planc.errors import ModelError
from planc.registry import Registry
from planc.training.emit.builder import Array, Shape, Var
from planc.training.registry import attributes_of


@dataclass(frozen=True)
class Call:
    """A node whose operands' types are known; `constants` holds the values of those that are initializers."""

    node: onnx.NodeProto
    operands: tuple[Var | None, ...]
    constants: Mapping[str, Array]
    attributes: Mapping[str, Any]
    version: int

    @property
    def where(self) -> str:
        return f"node {self.node.name!r} ({self.node.op_type})"

    def operand(self, position: int) -> Var:
        """The operand at `position`. Raises ModelError where it is left out."""
        found = self.operands[position] if position < len(self.operands) else None
        if found is None:
            raise ModelError(f"{self.where}: input {position} is required")
        return found

    def shape(self, position: int) -> Shape:
        return self.operand(position).shape

    def has(self, position: int) -> bool:
        return position < len(self.operands) and self.operands[position] is not None

    def constant(self, position: int) -> Array:
        """The value of an operand. Raises ModelError where the model computes it."""
        name = self.operand(position).name
        if name not in self.constants:
            raise ModelError(f"{self.where}: input {position} ({name!r}) must be a constant; fold or fix it first")
        return self.constants[name]

    def refuse(self, reason: str) -> ModelError:
        """The error that says why this call has no gradient."""
        return ModelError(f"{self.where}: {reason}")


BodyRule = Callable[[Call, "Body"], str]
"""Emits the body of a call and names its result."""

BODIES: Registry[str, BodyRule] = Registry("the function body of")


def body(*op_types: str) -> Callable[[BodyRule], BodyRule]:
    """Register the body of `op_types`."""

    def register(rule: BodyRule) -> BodyRule:
        BODIES.add(op_types, rule)
        return rule

    return register


@dataclass
class Body:
    """Nodes of one body; `dtype` is the type of its numbers. Inputs are named x0, x1, ... and the result y."""

    dtype: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)

    def op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """One node of one result, whose name is returned."""
        return self.ops(op_type, 1, *inputs, **attributes)[0]

    def ops(self, op_type: str, count: int, *inputs: str, **attributes: Any) -> list[str]:
        """One node of `count` results."""
        names = [f"t{len(self.nodes)}{'' if i == 0 else f'.{i}'}" for i in range(count)]
        self.nodes.append(helper.make_node(op_type, list(inputs), names, **attributes))
        return names

    def constant(self, array: Array) -> str:
        """A tensor of these values."""
        return self.op("Constant", value=numpy_helper.from_array(np.asarray(array)))

    def ints(self, numbers: Sequence[int]) -> str:
        """An int64 vector."""
        return self.constant(np.array(list(numbers), np.int64))

    def numbers(self, array: Any) -> str:
        """A tensor of the body's type."""
        return self.constant(np.asarray(array).astype(helper.tensor_dtype_to_np_dtype(self.dtype)))

    def viewed(self, a: str, shape: Sequence[int]) -> str:
        return self.op("Reshape", a, self.ints(shape))

    def sliced(self, a: str, axis: int, start: int, end: int, step: int = 1) -> str:
        return self.op("Slice", a, self.ints([start]), self.ints([end]), self.ints([axis]), self.ints([step]))

    def flipped(self, a: str, axis: int) -> str:
        return self.sliced(a, axis, -1, -(2**31), -1)

    def add(self, a: str, b: str) -> str:
        return self.op("Add", a, b)

    def mul(self, a: str, b: str) -> str:
        return self.op("Mul", a, b)

    def shifted(self, a: str, number: float) -> str:
        """`a` plus a number of the body's type."""
        return self.op("Add", a, self.numbers(number)) if number else a

    def scaled(self, a: str, number: float) -> str:
        """`a` times a number of the body's type."""
        return self.op("Mul", a, self.numbers(number)) if number != 1 else a


def made_body(node: onnx.NodeProto, call: Call) -> onnx.FunctionProto | None:
    """The body of `call` as a function, None for an operator without one here."""
    if node.op_type not in BODIES:
        return None
    first = next((v for v in call.operands if v is not None), None)
    made = Body(first.dtype if first is not None else onnx.TensorProto.FLOAT)
    result = BODIES[node.op_type](call, made)
    if not made.nodes or result not in made.nodes[-1].output:
        made.op("Identity", result)
    made.nodes[-1].output[0] = "y"
    inputs = [f"x{i}" for i in range(len(node.input))]
    version = helper.make_opsetid("", call.version)
    return helper.make_function("", node.op_type, inputs, ["y"], made.nodes, [version])


def call_of(
    node: onnx.NodeProto, values: Mapping[str, Var], constants: Mapping[str, Array], version: int
) -> Call | None:
    """The call that `node` is, None where the shape of an operand is not known."""
    if any(name and name not in values for name in node.input):
        return None
    operands = tuple(values[name] if name else None for name in node.input)
    return Call(node, operands, constants, attributes_of(node), version)
