"""Reverse-mode differentiation of a forward model into the graph of one training step.

Node order: forward layers; after each its update of running statistics; backward layers in reverse; after each the
updates of the parameters whose gradient it completed, so that gradients die at once. A parameter's gradient is complete
after the backward layer of its first reader, which is also its last reader in the step.
"""

import warnings
from collections.abc import Collection, Mapping
from dataclasses import replace
from itertools import groupby

import onnx

from planc.errors import ModelError, PlancWarning, UsageError
from planc.graph.annotations import node_annotation
from planc.import_budget import import_budget, spend_time
from planc.training.assembly import Assembly
from planc.training.emit.builder import FLOATS, Builder, LayerGroup, Var
from planc.training.emit.forms import OperatorForms, table_for
from planc.training.emit.opset import expressed, in_oldest_opset, opset_for
from planc.training.emit.widen import widen
from planc.training.optimizers import Optimizer
from planc.training.prepare.attention import fuse_attention, stays_whole
from planc.training.prepare.fold import fold_constants
from planc.training.prepare.losses import append_loss
from planc.training.prepare.parameters import trainable
from planc.training.prepare.precision import set_precision
from planc.training.prepare.prepare import Prepared, canonical, infer_shapes, known_values, prepare
from planc.training.prepare.recurrent import unroll_recurrent
from planc.training.prepare.rms_norm import fuse_rms_norms
from planc.training.prepare.rotary import fuse_rotary
from planc.training.prepare.suspects import suspicions
from planc.training.registry import ForwardNode, attributes_of
from planc.training.rules import FORWARD_RULES, GRADIENTS
from planc.training.step_options import PLAIN, ParameterGroup, StepOptions

__all__ = ["differentiate"]


@import_budget("the forward model")
def differentiate(
    forward: onnx.ModelProto,
    *,
    loss: str,
    optimizer: Optimizer,
    device: str = "cpu",
    dims: Mapping[str, int] | None = None,
    parameters: Collection[str] | None = None,
    precision: str = "float32",
    options: StepOptions = PLAIN,
    outputs: Collection[str] = (),
) -> onnx.ModelProto:
    """The training graph of `forward`: one step of `optimizer` on `loss`.

    `loss` is `cross-entropy`, `mse` or `output` (see planc.training.prepare.losses). `device` (`cpu` or `cuda`) picks
    among equivalent operator forms. `dims` binds symbolic dimensions. `parameters` lists the trained initializers where
    the rule of `planc.training.prepare.parameters.trainable` is not wanted. `precision` float16 or bfloat16 runs in that
    type what `torch.autocast` would, with float32 parameters, pure-bfloat16 everything. `options` are clipping,
    accumulation, loss scale and averaged weights; `outputs` names tensors of the forward model that the step returns
    beside the loss. Warns where an exporter seems to have merged, untied or repeated weights.

    Raises ModelError for a model planc cannot differentiate and UsageError for a wrong option.
    """
    table = table_for(device)
    model = canonical(forward, dims or {})
    fold_constants(model)
    if unroll_recurrent(model, known_values(model)):
        infer_shapes(model)
        fold_constants(model)
    trained = trainable(model, parameters)
    if not trained:
        raise ModelError("the model has no trainable parameter: no float initializer is used as a weight")
    for text in suspicions(model, trained):
        warnings.warn(text, PlancWarning, stacklevel=2)
    set_precision(model, precision, trained)
    loss_name = append_loss(infer_shapes(model), loss)
    whole = {"Attention"} if table.kernels and stays_whole(model) else set()
    prepared = prepare(infer_shapes(model), {*GRADIENTS, *whole}, trained)
    missing = [name for name in outputs if name not in prepared.values]
    if missing:
        raise UsageError(f"output {missing[0]!r} is no tensor of the model")
    if table.kernels or table.library:
        found = fuse_attention(prepared.model, prepared.values, trained, outputs, table.library)
        prepared = replace(prepared, values=found)
    if table.kernels:
        fuse_rms_norms(prepared.model, prepared.values, trained, outputs)
        prepared = replace(prepared, values=fuse_rotary(prepared.model, prepared.values, trained, outputs))
    step = _Step(prepared, optimizer, table, loss_name, trained, options)
    return in_oldest_opset(widen(step.build(outputs), table.device))


def _statistics(model: onnx.ModelProto) -> set[str]:
    """Initializers that a batch-norm may change: they are no constants, whatever they hold at first."""
    norms = (node for node in model.graph.node if node.op_type == "BatchNormalization")
    return {name for node in norms for name in node.input[3:5]}


class _Step:
    """Builds one training graph; the methods run in the order of the graph's phases."""

    def __init__(
        self, prepared: Prepared, optimizer: Optimizer, table: OperatorForms, loss: str,
        parameters: list[str], options: StepOptions,
    ) -> None:  # fmt: skip
        self.prepared, self.table, self.loss = prepared, table, loss
        self.initial = prepared.initializers
        self.parameters = [name for name in parameters if name in self.initial]
        trained = set(self.parameters)
        changing = trained | _statistics(prepared.model)
        fixed = {n: t for n, t in self.initial.items() if n not in changing}
        self.opset = opset_for(v.dtype for v in prepared.values.values())
        self.builder = Builder(values=dict(prepared.values), fixed=fixed)
        self.step = Assembly(self.builder, table, [ParameterGroup(optimizer, self.parameters)], options)
        self.grads: dict[str, Var] = {}
        self.active = self._active()
        self._declare()

    def _declare(self) -> None:
        """Batch inputs, and all weights: those that something updates become state."""
        values = self.prepared.values
        for info in self.prepared.model.graph.input:
            if info.name not in self.initial:
                self.step.batch_input(info.name, values[info.name].shape, values[info.name].dtype)
        for name, tensor in self.initial.items():
            self.step.tensor(name, tensor, changes=False)

    def build(self, outputs: Collection[str]) -> onnx.ModelProto:
        groups = [list(nodes) for _, nodes in groupby(self.prepared.model.graph.node, key=node_annotation)]
        lowered = [self._forward(group) for group in groups]
        loss = self.builder.values[self.loss]
        layer, kind, _ = node_annotation(lowered[-1][0].proto) or ("", "", "")
        self.builder.group = LayerGroup(layer, kind, "backward")
        self.grads[self.loss] = self.step.seed(loss)
        pending = self._completed_by(lowered)
        for position in reversed(range(len(lowered))):
            self._backward(lowered[position])
            for name in pending.get(position, ()):
                self._complete(name, lowered[position])
        return self.step.finished(loss, outputs={name: self.builder.values[name] for name in outputs}, title=self.loss)

    # --- phases

    def _forward(self, group: list[onnx.NodeProto]) -> list[ForwardNode]:
        """Emit one forward layer, then the updates of the state it holds."""
        b, updates, emitted = self.builder, [], []
        layer, kind, _ = node_annotation(group[0]) or ("", "", "")
        b.group = LayerGroup(layer, kind, "forward")
        for proto in group:
            node = self._resolve(proto)
            lowered = FORWARD_RULES[proto.op_type](b, node) if proto.op_type in FORWARD_RULES else None
            if lowered is None:
                b.adopt(expressed(proto, self.prepared.version, self.opset))
            else:
                node = replace(node, saved=lowered.saved)
                updates += [lowered.update] if lowered.update else []
            emitted.append(node)
        if updates:
            self.step.flush(updates, LayerGroup(layer, kind, "update"))
        return emitted

    def _backward(self, group: list[ForwardNode]) -> None:
        """Emit the gradients of one layer, its nodes in reverse."""
        first = node_annotation(group[0].proto)
        layer, kind, _ = first or ("", "", "")
        self.builder.group = LayerGroup(layer, kind, "backward")
        for node in reversed(group):
            outputs = [self.grads.get(v.name) if v else None for v in node.outputs]
            if not node.wanted or all(dy is None for dy in outputs):
                continue
            spend_time(node.where)
            if node.op_type not in GRADIENTS:
                raise ModelError(f"{node.where}: planc has no gradient for this operator")
            found = GRADIENTS[node.op_type](self.builder, self._viewed_locally(node), outputs)
            for value in node.outputs:
                if value is not None:
                    self.grads.pop(value.name, None)
            for position, gradient in found.items():
                self._accumulate(node.input(position).name, gradient)

    def _viewed_locally(self, node: ForwardNode) -> ForwardNode:
        local = {v.name: self.builder.local_view(v) for v in (*node.inputs, *node.outputs, *node.saved.values()) if v}
        inputs, outputs = (tuple(v and local[v.name] for v in listed) for listed in (node.inputs, node.outputs))
        return replace(
            node, inputs=inputs, outputs=outputs, saved={key: local[v.name] for key, v in node.saved.items()}
        )  # fmt: skip

    def _accumulate(self, name: str, gradient: Var) -> None:
        """Add at once, so that only one tensor of partial sums lives between two contributions."""
        known = self.grads.get(name)
        if known is not None and known.dtype != gradient.dtype:
            known, gradient = self.builder.wide(known), self.builder.wide(gradient)
        joined = known is None or self.builder.scattered_onto(known, gradient)
        self.grads[name] = gradient if joined or known is None else self.builder.add(known, gradient)

    def _complete(self, name: str, group: list[ForwardNode]) -> None:
        """Hand over the gradient of a parameter, if the loss depends on it."""
        gradient = self.grads.pop(name, None)
        if gradient is not None:
            layer, kind, _ = node_annotation(group[0].proto) or ("", "", "")
            self.step.ready(name, gradient, LayerGroup(layer, kind, "backward"))

    # --- analysis

    def _resolve(self, proto: onnx.NodeProto) -> ForwardNode:
        spend_time(proto.name)
        values = self.builder.values
        inputs = tuple(values[n] if n else None for n in proto.input)
        wanted = frozenset(i for i, v in enumerate(inputs) if v is not None and v.name in self.active)
        return ForwardNode(
            proto=proto, inputs=inputs, outputs=tuple(values[n] if n else None for n in proto.output),
            attributes=attributes_of(proto), constants=self.initial, table=self.table, wanted=wanted,
        )  # fmt: skip

    def _active(self) -> set[str]:
        """Float tensors that depend on a parameter."""
        active = set(self.parameters)
        for node in self.prepared.model.graph.node:
            if any(name in active for name in node.input):
                active.update(o for o in node.output if o and self.prepared.values[o].dtype in FLOATS)
        return active

    def _completed_by(self, groups: list[list[ForwardNode]]) -> dict[int, list[str]]:
        """{group: parameters that it reads first}, i.e. whose gradient its backward layer completes."""
        first: dict[str, int] = {}
        for position, group in enumerate(groups):
            for node in group:
                for value in node.inputs:
                    if value is not None:
                        first.setdefault(value.name, position)
        completed: dict[int, list[str]] = {}
        for name in self.parameters:
            completed.setdefault(first[name], []).append(name)
        return completed
