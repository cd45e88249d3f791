"""What every source of training graphs has in common: state in and out, updates, the finished model.

A source lowers its forward and backward operators with the builder; everything that makes them one *step* is here.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import onnx
from onnx import TensorProto, helper, numpy_helper

from planc.graph import annotations
from planc.training.apply import Update
from planc.training.emit.builder import Array, Builder, LayerGroup, Var
from planc.training.emit.opset import OPSET
from planc.training.finish import MOVING, finish
from planc.training.optimizers import (
    STEP,
    Optimizer,
    StepScales,
    emit_step_count,
    emit_update,
    slots,
    step_count_slot,
    uses_step_count,
)  # fmt: skip
from planc.training.prepare.prepare import Prepared

LOSS = "loss"

STATISTICS = "running_statistics"
"""Suffix of the layer that updates a forward layer's own state."""


@dataclass
class Assembly:
    """A training graph under construction.

    `initial` are the values of state inputs, `kept` those of tensors that the step reads but never changes, `gathered`
    optimizer state that training elsewhere left behind, `following` the next value of each state input.
    """

    b: Builder
    gathered: Mapping[str, Array] = field(default_factory=dict)
    batch: list[Var] = field(default_factory=list)
    initial: dict[str, TensorProto] = field(default_factory=dict)
    kept: dict[str, TensorProto] = field(default_factory=dict)
    following: dict[str, Var] = field(default_factory=dict)
    _scales: dict[Optimizer, StepScales] = field(default_factory=dict)

    # --- inputs

    def batch_input(self, name: str, shape: Sequence[int], dtype: int) -> Var:
        """Declare an input that every step is fed."""
        value = self._declared(Var(name, tuple(shape), dtype))
        self.batch.append(value)
        return value

    def tensor(self, name: str, array: Array, changes: bool) -> Var:
        """Declare a state input with its initial value, or a constant where the step never changes it."""
        tensor = numpy_helper.from_array(array, name)
        (self.initial if changes else self.kept)[name] = tensor
        return self._declared(Var(name, tuple(tensor.dims), tensor.data_type))

    def _declared(self, value: Var) -> Var:
        self.b.values[value.name] = value
        return value

    # --- updates

    def flush(self, updates: Iterable[Update], group: LayerGroup) -> None:
        """Emit the updates of a forward layer's own state, in an update group of their own."""
        self.b.group = LayerGroup(f"{group.layer}.{STATISTICS}", group.kind, "update")
        for update in updates:
            self.following.update(update(self.b))

    def step_count(self, rules: Iterable[Optimizer]) -> None:
        """Emit the step count and the scales that depend on it, if a rule needs them.

        The rules may differ in all but their betas.
        """
        counted = [rule for rule in dict.fromkeys(rules) if uses_step_count(rule)]
        if not counted:
            return
        slot = step_count_slot()
        self.b.group = LayerGroup(STEP, "step-count", "update")
        following, scales = emit_step_count(self.b, counted[0], Var(slot.name, (), TensorProto.FLOAT))
        self.hold(slot.name, following, slot.initial)
        for rule in counted:
            ratio = rule.learning_rate / counted[0].learning_rate if counted[0].learning_rate else 1.0
            self._scales[rule] = replace(scales, step_size=self.b.mul(scales.step_size, ratio))

    def scales(self, rule: Optimizer) -> StepScales | None:
        """This step's scales of `rule`, None for a rule without any."""
        return self._scales.get(rule)

    def update(self, name: str, rule: Optimizer, gradient: Var, group: LayerGroup) -> None:
        """Emit the step of `rule` for parameter `name` in the update group of `group`'s layer."""
        self.b.group = LayerGroup(group.layer, group.kind, "update")
        parameter = self.b.values[name]
        gradient = self.b.cast(gradient, parameter.dtype)
        following = emit_update(self.b, rule, parameter, gradient, self.slot_values(name, rule), self.scales(rule))
        self.hold_all(name, rule, following)

    def slot_values(self, name: str, rule: Optimizer) -> list[Var]:
        """The state inputs that `rule` keeps for parameter `name`."""
        parameter = self.b.values[name]
        kept = slots(rule, parameter)
        return [Var(slot.name, parameter.shape, parameter.dtype) for slot in kept]

    def hold_all(self, name: str, rule: Optimizer, following: Sequence[Var]) -> None:
        """Record the next values of parameter `name` and of the state that `rule` keeps for it."""
        kept = slots(rule, self.b.values[name])
        self.following[name] = following[0]
        for slot, value in zip(kept, following[1:], strict=True):
            self.hold(slot.name, value, slot.initial)

    def hold(self, name: str, following: Var, zeros: Array) -> None:
        """Record one state tensor: its next value, and its initial one unless training elsewhere left another."""
        self.following[name] = following
        self.initial[name] = numpy_helper.from_array(self.gathered.get(name, zeros), name)

    # --- the model

    def finished(self, loss: Var, index_sizes: Mapping[str, int]) -> onnx.ModelProto:
        """The ONNX model; `index_sizes` says how many classes or rows each integer tensor indexes."""
        shell = onnx.ModelProto()
        shell.graph.input.extend(helper.make_tensor_value_info(v.name, v.dtype, v.shape) for v in self.batch)
        shell.graph.initializer.extend(self.kept.values())
        named = self._named({LOSS: loss, **{f"{name}.next": value for name, value in self.following.items()}})
        following = {name: named[f"{name}.next"] for name in self.following}
        model = finish(self.b, Prepared(shell, self.b.values, OPSET), named[LOSS], following, self.initial)
        ranges = {**annotations.read_json(model, annotations.INPUT_RANGES), **self._ranges(index_sizes)}
        annotations.write_model(model, {annotations.INPUT_RANGES: json.dumps(ranges)})
        return model

    def _named(self, wanted: Mapping[str, Var]) -> dict[str, Var]:
        """Each output under its usual name, if no other tensor has that."""
        renamed = {value.name: name for name, value in wanted.items() if name not in self.b.values}
        for node in self.b.nodes:
            for names in (node.input, node.output):
                for position, name in enumerate(names):
                    if name in renamed:
                        names[position] = renamed[name]
        found = {name: replace(value, name=renamed.get(value.name, value.name)) for name, value in wanted.items()}
        self.b.values.update({value.name: value for value in found.values()})
        return found

    def _ranges(self, index_sizes: Mapping[str, int]) -> dict[str, list[int]]:
        """Valid values of the integer inputs that labels and indices are read from."""
        source = {o: n.input[0] for n in self.b.nodes if n.op_type in MOVING for o in n.output}
        batch, found = {v.name for v in self.batch}, dict[str, list[int]]()
        for name, size in index_sizes.items():
            while name in source:
                name = source[name]
            if name in batch:
                found[name] = [0, min(size, found.get(name, [0, size])[1])]
        return found
