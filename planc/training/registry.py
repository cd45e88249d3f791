"""The registry of gradient rules and forward lowerings, and what a rule is given.

A *lowering* replaces a forward node by the nodes the training graph needs in its place (batch statistics, the mask of
a dropout) and says which tensors its gradient will want. A *gradient rule* turns the gradients of a node's outputs
into those of its inputs. Rules are registered per operator type; an operator without a rule is expanded through its
ONNX function body or refused.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from planc.errors import InternalError, ModelError
from planc.training.emit.builder import Array, Builder, Value
from planc.training.emit.forms import LoweringTable


@dataclass(frozen=True)
class ForwardNode:
    """A node of the forward model with its tensors resolved.

    `wanted` are the positions of inputs whose gradient is needed; `saved` what its lowering left for the gradient.
    """

    proto: onnx.NodeProto
    inputs: tuple[Value | None, ...]
    outputs: tuple[Value | None, ...]
    attributes: Mapping[str, Any]
    constants: Mapping[str, onnx.TensorProto]
    table: LoweringTable
    wanted: frozenset[int] = frozenset()
    saved: Mapping[str, Value] = field(default_factory=dict)

    @property
    def op_type(self) -> str:
        return self.proto.op_type

    @property
    def where(self) -> str:
        """How to name this node to a user."""
        return f"node {self.proto.name!r} ({self.op_type})"

    def input(self, position: int) -> Value:
        """The required input at `position`. Raises ModelError when the model leaves it out."""
        value = self.inputs[position] if position < len(self.inputs) else None
        if value is None:
            raise ModelError(f"{self.where}: input {position} is required")
        return value

    def has_input(self, position: int) -> bool:
        return position < len(self.inputs) and self.inputs[position] is not None

    def has_output(self, position: int) -> bool:
        return position < len(self.outputs) and self.outputs[position] is not None

    @property
    def output(self) -> Value:
        """The first output."""
        value = self.outputs[0]
        if value is None:
            raise ModelError(f"{self.where}: its first output is required")
        return value

    def attribute(self, name: str, default: Any) -> Any:
        return self.attributes.get(name, default)

    def constant(self, position: int) -> Array | None:
        """The value of the input at `position` when it is an initializer, None when it is left out.

        Raises ModelError when it is computed: planc's graphs have static shapes and attributes.
        """
        if not self.has_input(position):
            return None
        name = self.input(position).name
        if name not in self.constants:
            raise ModelError(f"{self.where}: input {position} ({name!r}) must be a constant; fold or fix it first")
        return numpy_helper.to_array(self.constants[name])

    def ints(self, position: int, attribute: str) -> list[int] | None:
        """Integers given either as a constant input or, in older opsets, as an attribute."""
        found = self.constant(position)
        if found is not None:
            return [int(v) for v in np.ravel(found)]
        listed = self.attribute(attribute, None)
        return None if listed is None else [int(v) for v in listed]


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """The attributes of `node` as Python values, bytes decoded."""
    values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return {k: v.decode() if isinstance(v, bytes) else v for k, v in values.items()}


OutputGradients = Sequence[Value | None]
Gradients = Mapping[int, Value]
GradientRule = Callable[[Builder, ForwardNode, OutputGradients], Gradients]


def sole(grads: OutputGradients) -> Value:
    """The gradient of the first output; the engine calls no rule of a one-output operator without it."""
    if grads[0] is None:
        raise InternalError("a gradient rule was called without the gradient of its first output")
    return grads[0]


@dataclass(frozen=True)
class Lowered:
    """What a lowering leaves behind: tensors for the gradient, and how to emit the update of state it holds.

    `update` runs after the layer's forward group, in a group of phase `update`, and returns {state input: next value}.
    """

    saved: Mapping[str, Value] = field(default_factory=dict)
    update: Callable[[Builder], dict[str, Value]] | None = None


ForwardLowering = Callable[[Builder, ForwardNode], Lowered]

GRADIENTS: dict[str, GradientRule] = {}
LOWERINGS: dict[str, ForwardLowering] = {}


def gradient(*op_types: str) -> Callable[[GradientRule], GradientRule]:
    """Register the gradient rule of `op_types`."""

    def register(rule: GradientRule) -> GradientRule:
        GRADIENTS.update(dict.fromkeys(op_types, rule))
        return rule

    return register


def lowering(*op_types: str) -> Callable[[ForwardLowering], ForwardLowering]:
    """Register the forward lowering of `op_types`."""

    def register(rule: ForwardLowering) -> ForwardLowering:
        LOWERINGS.update(dict.fromkeys(op_types, rule))
        return rule

    return register
