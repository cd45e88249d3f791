"""Turns a traced step into a training graph: layers in order, state updates where the planner wants them."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from planc.errors import ModelError
from planc.graph import annotations
from planc.torch.lowering import Lowering, aten
from planc.torch.settings import Settings
from planc.torch.tensors import Constant, onnx_dtype, to_numpy
from planc.torch.trace import Input, TracedStep
from planc.training.builder import Builder, Group, Value
from planc.training.finish import finish
from planc.training.lowering_table import LoweringTable
from planc.training.opset import OPSET
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
from planc.training.prepare import Prepared

LOSS = "loss"
STATISTICS = "running_statistics"

_SAME = (aten.alias.default, aten.detach.default, aten.clone.default)
_VIEWS = (
    *_SAME, aten.t.default, aten.permute.default, aten.transpose.int, aten.view.default, aten.expand.default,
    aten.unsqueeze.default, aten.squeeze.dim, aten.squeeze.dims,
)  # fmt: skip
"""Operators that may be lowered to nothing, so that their users read the tensor itself."""


def assemble(
    traced: TracedStep, batch_names: Sequence[str], settings: Settings, table: LoweringTable
) -> onnx.ModelProto:
    """The ONNX model of `traced` followed by the updates that `settings` name."""
    return _Assembly(traced, batch_names, settings, table).build()


class _Assembly:
    """Builds one training graph from the traced one, in its order."""

    def __init__(
        self, traced: TracedStep, batch_names: Sequence[str], settings: Settings, table: LoweringTable
    ) -> None:
        self.traced, self.settings = traced, settings
        self.b = Builder()
        self.c = Lowering(self.b, table=table)
        self.nodes = list(traced.graph.nodes)
        self.placeholders = [node for node in self.nodes if node.op == "placeholder"]
        self.loss, self.grads, self.following = self._outputs()
        self.batch: list[Value] = []
        self.initial: dict[str, TensorProto] = {}
        self.kept: dict[str, TensorProto] = {}
        self.state: dict[str, Value] = {}
        self.scales: dict[Optimizer, StepScales] = {}
        self._declare(batch_names)

    def build(self) -> onnx.ModelProto:
        due, needed = self._due(), self._needed()
        forward = True
        for group, run in self._runs():
            if group.phase == "backward" and forward:
                forward = False
                self._step_count()
            self.b.group = group
            for node in run:
                if node in needed:
                    self.c.run(node)
                else:
                    self.c.updates.append(partial(self._run_late, node))
            self._flush(group)
            for name in due.get(run[-1], ()):
                self._update(name, group)
        self._follow_buffers()
        return self._finished()

    # --- inputs

    def _outputs(self) -> tuple[torch.fx.Node, dict[str, torch.fx.Node | None], dict[str, torch.fx.Node]]:
        """The nodes of the loss, of the gradient of each parameter and of the following value of each buffer."""
        (loss, grads, buffers) = self.nodes[-1].args[0]
        names = {kind: [i.name for i in self.traced.inputs if i.kind == kind] for kind in ("parameter", "buffer")}
        return (
            loss,
            dict(zip(names["parameter"], grads, strict=True)),
            dict(zip(names["buffer"], buffers, strict=True)),
        )

    def _declare(self, batch_names: Sequence[str]) -> None:
        """Give every placeholder its tensor: a batch input, a state input, or a constant."""
        names = iter(batch_names)
        for node, declared in zip(self.placeholders, self.traced.inputs, strict=True):
            if declared.kind == "alias":
                self.c.known[node] = self._first(declared.name)
            elif declared.kind == "batch":
                value = self._tensor(next(names), declared.value)
                self.batch.append(value)
                self.c.known[node] = value
            elif declared.kind == "parameter" or self._is_written(node, declared):
                self.c.known[node] = self._held(declared)
            else:
                self.c.known[node] = Constant(declared.value.detach())

    def _tensor(self, name: str, like: torch.Tensor) -> Value:
        value = Value(name, tuple(like.shape), onnx_dtype(like.dtype))
        self.b.values[name] = value
        self.c.resident.add(name)
        return value

    def _held(self, declared: Input) -> Value:
        value = self._tensor(declared.name, declared.value)
        trained = declared.kind == "buffer" or (
            self.grads[declared.name] is not None and declared.name in self.settings.rules
        )
        target = self.initial if trained else self.kept
        target[declared.name] = numpy_helper.from_array(to_numpy(declared.value), declared.name)
        return value

    def _first(self, name: str) -> Value | Constant:
        for node, declared in zip(self.placeholders, self.traced.inputs, strict=True):
            if declared.name == name:
                known: Value | Constant = self.c.known[node]
                return known
        raise ModelError(f"tied tensor {name!r} is no input of the step")

    def _is_written(self, node: torch.fx.Node, declared: Input) -> bool:
        if declared.kind != "buffer":
            return False
        last = self.following[declared.name]
        while last.target in _SAME:
            last = last.args[0]
        return last is not node

    # --- order

    def _runs(self) -> Iterator[tuple[Group, list[torch.fx.Node]]]:
        """Maximal runs of nodes of one layer and phase, in order; a layer met again in a phase gets a serial."""
        computing = [node for node in self.nodes if node.op == "call_function"]
        seen: dict[tuple[str, str], int] = {}
        start = 0
        for at in range(1, len(computing) + 1):
            if at < len(computing) and self.traced.placed[computing[at]] == self.traced.placed[computing[start]]:
                continue
            layer, phase = self.traced.placed[computing[start]]
            count = seen[layer.name, phase] = seen.get((layer.name, phase), 0) + 1
            name = layer.name if count == 1 else f"{layer.name}~{count}"
            yield Group(name, layer.kind, phase), computing[start:at]
            start = at

    def _needed(self) -> set[torch.fx.Node]:
        """What the loss or a gradient depends on; the rest only makes following values of buffers."""
        pending = [self.loss, *(g for g in self.grads.values() if g is not None)]
        found: set[torch.fx.Node] = set()
        while pending:
            node = pending.pop()
            if node not in found:
                found.add(node)
                pending += node.all_input_nodes
        return found

    def _due(self) -> dict[torch.fx.Node, list[str]]:
        """{last node of a run: parameters to update then}: their gradient is made and nothing reads them any more."""
        position = {node: i for i, node in enumerate(self.nodes)}
        ends = {node: run[-1] for _, run in self._runs() for node in run}
        due: dict[torch.fx.Node, list[str]] = {}
        for node, declared in zip(self.placeholders, self.traced.inputs, strict=True):
            gradient = self.grads.get(declared.name)
            if declared.kind != "parameter" or gradient is None or declared.name not in self.settings.rules:
                continue
            last = max([gradient, *self._readers(node)], key=position.__getitem__)
            due.setdefault(ends[last], []).append(declared.name)
        return due

    def _readers(self, node: torch.fx.Node) -> Iterator[torch.fx.Node]:
        """Nodes that read a tensor directly or through views."""
        for user in node.users:
            if user.target in _VIEWS:
                yield from self._readers(user)
            elif user.op == "call_function":
                yield user

    # --- state

    def _run_late(self, node: torch.fx.Node, b: Builder) -> dict[str, Value]:
        del b
        self.c.run(node)
        return {}

    def _flush(self, group: Group) -> None:
        """Emit what the layer left for its own update group."""
        pending, self.c.updates = self.c.updates, []
        if not pending:
            return
        self.b.group = Group(f"{group.layer}.{STATISTICS}", group.kind, "update")
        for update in pending:
            self.state.update(update(self.b))

    def _follow_buffers(self) -> None:
        for name, node in self.following.items():
            if name in self.initial and name not in self.state:
                self.b.group = Group(name, "buffer", "update")
                value = self.c.value(self.c.known[node])
                self.state[name] = value if node not in self._needed() else self.b.unary("Identity", value)

    def _step_count(self) -> None:
        """The step count and the scales that depend on it; parameter groups differ in their learning rate only."""
        rules = [rule for rule in dict.fromkeys(self.settings.rules.values()) if uses_step_count(rule)]
        if not rules:
            return
        slot = step_count_slot()
        self.b.group = Group(STEP, "step-count", "update")
        step = Value(slot.name, (), TensorProto.FLOAT)
        following, scales = emit_step_count(self.b, rules[0], step)
        self._hold(slot.name, following, slot.initial)
        for rule in rules:
            ratio = rule.learning_rate / rules[0].learning_rate if rules[0].learning_rate else 1.0
            self.scales[rule] = replace(scales, step_size=self.b.mul(scales.step_size, ratio))

    def _update(self, name: str, group: Group) -> None:
        rule, gradient = self.settings.rules[name], self.grads[name]
        self.b.group = Group(group.layer, group.kind, "update")
        parameter = self.b.values[name]
        kept = slots(rule, name, numpy_helper.to_array(self.initial[name]))
        state = [Value(slot.name, parameter.shape, parameter.dtype) for slot in kept]
        grad = self.b.cast(self.c.value(self.c.known[gradient]), parameter.dtype)
        following = emit_update(self.b, rule, parameter, grad, state, self.scales.get(rule))
        self.state[name] = following[0]
        for slot, value in zip(kept, following[1:], strict=True):
            self._hold(slot.name, value, slot.initial)

    def _hold(self, name: str, following: Value, zeros: np.ndarray) -> None:
        self.state[name] = following
        self.initial[name] = numpy_helper.from_array(self.settings.initial.get(name, zeros), name)

    # --- the model

    def _finished(self) -> onnx.ModelProto:
        loss = self._named_loss(self.c.value(self.c.known[self.loss]))
        shell = onnx.ModelProto()
        shell.graph.input.extend(helper.make_tensor_value_info(v.name, v.dtype, v.shape) for v in self.batch)
        shell.graph.initializer.extend(self.kept.values())
        model = finish(self.b, Prepared(shell, self.b.values, OPSET), loss, self.state, self.initial)
        ranges = {**annotations.read_json(model, annotations.INPUT_RANGES), **self._ranges()}
        annotations.write_model(model, {annotations.INPUT_RANGES: json.dumps(ranges)})
        return model

    def _named_loss(self, loss: Value) -> Value:
        """The loss under its usual name, if no tensor has that."""
        if LOSS in self.b.values:
            return loss
        for node in self.b.nodes:
            for names in (node.input, node.output):
                for position, name in enumerate(names):
                    if name == loss.name:
                        names[position] = LOSS
        self.b.values[LOSS] = named = replace(loss, name=LOSS)
        return named

    def _ranges(self) -> dict[str, list[int]]:
        """Valid values of the integer inputs that labels and indices are read from, through copies and views."""
        moving = {"Reshape", "Cast", "Slice", "Expand", "Transpose"}
        source = {o: n.input[0] for n in self.b.nodes if n.op_type in moving for o in n.output}
        batch, found = {v.name for v in self.batch}, dict[str, list[int]]()
        for name, size in self.c.index_ranges.items():
            while name in source:
                name = source[name]
            if name in batch:
                found[name] = [0, min(size, found.get(name, [0, size])[1])]
        return found
