"""The registry of gradient rules and forward rules, and what a rule is given.

A *forward rule* replaces a forward node by the nodes the training graph needs in its place (batch statistics, the mask of
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
from planc.registry import Registry
from planc.training.emit.builder import Array, Builder, Var
from planc.training.emit.forms import OperatorForms


@dataclass(frozen=True)
class ForwardNode:
    """A node of the forward model with its tensors resolved.

    `wanted` are the positions of inputs whose gradient is needed; `saved` what its forward rule left for the gradient.
    """

    proto: onnx.NodeProto
    inputs: tuple[Var | None, ...]
    outputs: tuple[Var | None, ...]
    attributes: Mapping[str, Any]
    constants: Mapping[str, onnx.TensorProto]
    table: OperatorForms
    wanted: frozenset[int] = frozenset()
    saved: Mapping[str, Var] = field(default_factory=dict)

    @property
    def op_type(self) -> str:
        return self.proto.op_type

    @property
    def where(self) -> str:
        """How to name this node to a user."""
        return f"node {self.proto.name!r} ({self.op_type})"

    def input(self, position: int) -> Var:
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
    def output(self) -> Var:
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


OutputGradients = Sequence[Var | None]
Gradients = Mapping[int, Var]
GradientRule = Callable[[Builder, ForwardNode, OutputGradients], Gradients]


def sole(grads: OutputGradients) -> Var:
    """The gradient of the first output; the engine calls no rule of a one-output operator without it."""
    if grads[0] is None:
        raise InternalError("a gradient rule was called without the gradient of its first output")
    return grads[0]


@dataclass(frozen=True)
class ForwardResult:
    """What a forward rule leaves behind: tensors for the gradient, and how to emit the update of state it holds.

    `update` runs after the layer's forward group, in a group of phase `update`, and returns {state input: next value}.
    """

    saved: Mapping[str, Var] = field(default_factory=dict)
    update: Callable[[Builder], dict[str, Var]] | None = None


ForwardRule = Callable[[Builder, ForwardNode], ForwardResult | None]
"""None where the node is to stay as it stands, and nothing was emitted."""

GRADIENTS: Registry[str, GradientRule] = Registry("the gradient rule of")
FORWARD_RULES: Registry[str, ForwardRule] = Registry("the forward rule of")


def gradient(*op_types: str) -> Callable[[GradientRule], GradientRule]:
    """Register the gradient rule of `op_types`."""

    def register(rule: GradientRule) -> GradientRule:
        GRADIENTS.add(op_types, rule)
        return rule

    return register


def forward_rule(*op_types: str) -> Callable[[ForwardRule], ForwardRule]:
    """Register the forward rule of `op_types`."""

    def register(rule: ForwardRule) -> ForwardRule:
        FORWARD_RULES.add(op_types, rule)
        return rule

    return register
