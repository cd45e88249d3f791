"""Turns a traced step into a training graph: layers in order, state updates where the planner wants them."""

import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import onnx
import torch

from planc.torch.lowering import TorchLowering, aten, read_by
from planc.torch.settings import Settings
from planc.torch.tensors import Constant, onnx_dtype, to_numpy
from planc.torch.trace import Input, TracedStep
from planc.training.assembly import Assembly
from planc.training.emit.builder import Builder, LayerGroup, Var
from planc.training.emit.forms import OperatorForms

_SAME = (aten.alias.default, aten.detach.default, aten.clone.default)
_VIEWS = (
    *_SAME, aten.t.default, aten.permute.default, aten.transpose.int, aten.view.default, aten.expand.default,
    aten.unsqueeze.default, aten.squeeze.dim, aten.squeeze.dims,
)  # fmt: skip
"""Operators that may be lowered to nothing, so that their users read the tensor itself."""


def assemble(
    traced: TracedStep, batch_names: Sequence[str], settings: Settings, table: OperatorForms
) -> onnx.ModelProto:
    """The ONNX model of `traced` followed by the updates that `settings` name."""
    return _TorchStep(traced, batch_names, settings, table).build()


Nodes = dict[str, torch.fx.Node]
"""Nodes of the traced graph by the name of what they make."""


class _TorchStep:
    """Builds one training graph from the traced one, in its order."""

    def __init__(
        self, traced: TracedStep, batch_names: Sequence[str], settings: Settings, table: OperatorForms
    ) -> None:
        self.traced, self.settings = traced, settings
        self.b = Builder()
        self.c = TorchLowering(self.b, table=table)
        self.step = Assembly(self.b, table, settings.groups, settings.options, settings.initial)
        self.trained = {name for group in settings.groups for name in group.members}
        self.nodes = list(traced.graph.nodes)
        self.placeholders = [node for node in self.nodes if node.op == "placeholder"]
        self.loss, self.grads, self.following, self.others = self._outputs()
        self.needed = _ancestors([self.loss, *self.grads.values(), *self.others.values()], read_by)
        self.late = _ancestors(self.following.values(), _inputs) - self.needed
        self.update_start = 0
        self.masters: dict[torch.fx.Node, tuple[Var, int]] = {}
        """float32 parameters that are read in half precision, until the first reader comes."""
        self._declare(batch_names)

    def build(self) -> onnx.ModelProto:
        """Lower every run of nodes, and emit each update as soon as nothing waits for the old value any more."""
        due = self._due()
        for group, run in self._runs():
            self._narrow_for(run)
            self.b.group = group
            if group.phase == "backward":
                self._seed()
            for node in run:
                if node in self.needed or (node.target is operator.getitem and node.args[0] in self.needed):
                    self.c.run(node)
                if node in self.late:
                    self.c.updates.append(partial(self._run_late, node))
            if self.c.updates:
                updates, self.c.updates = self.c.updates, []
                self.update_start = len(self.b.nodes)
                self.step.flush(updates, group)
            for name in due.get(run[-1], ()):
                gradient = self.c.value(self.c.known[self.grads[name]])
                self.step.ready(name, gradient, group)
        self._follow_buffers()
        loss, *others = self._results()
        outputs = dict(zip(self.others, others, strict=True))
        return self.step.finished(loss, self.c.index_ranges, outputs)

    def _narrow_for(self, run: Sequence[torch.fx.Node]) -> None:
        """Narrow the masters that a run is the first to read, each in a layer of its own that a plan may run again."""
        for node in (source for reader in run for source in reader.all_input_nodes if source in self.masters):
            master, dtype = self.masters.pop(node)
            self.b.group = LayerGroup(f"{master.name}.narrow", "cast", "forward")
            self.c.known[node] = self.b.cast(master, dtype)

    def _seed(self) -> None:
        """The gradient of the loss, once the backward pass begins."""
        kinds = [declared.kind for declared in self.traced.inputs]
        node = self.placeholders[kinds.index("seed")]
        if self.settings.options.unscaled:
            self.c.known[node] = Constant(torch.ones(()))
        elif node not in self.c.known:
            self.c.known[node] = self.step.seed(Var("", (), onnx_dtype(self.loss.meta["val"].dtype)))

    # --- inputs

    def _outputs(self) -> tuple[torch.fx.Node, Nodes, Nodes, Nodes]:
        """The nodes of the loss, of gradients that an optimizer waits for, of buffers' next values, of other outputs."""
        (loss, grads, buffers, others) = self.nodes[-1].args[0]
        names = {kind: [i.name for i in self.traced.inputs if i.kind == kind] for kind in ("parameter", "buffer")}
        found = zip(names["parameter"], grads, strict=True) if grads else ()
        following = dict(zip(names["buffer"], buffers, strict=True))
        returned = dict(zip(self.traced.others, others, strict=True))
        trained = {n: g for n, g in found if g is not None and n in self.trained}
        return loss, trained, following, returned

    def _declare(self, batch_names: Sequence[str]) -> None:
        """Give every placeholder its tensor: a batch input, a state input, or a constant."""
        names = iter(batch_names)
        for node, declared in zip(self.placeholders, self.traced.inputs, strict=True):
            if declared.kind == "batch":
                name = next(names)
                value: Var | Constant = self.step.batch_input(
                    name, declared.value.shape, onnx_dtype(declared.value.dtype)
                )
            elif declared.kind == "seed":
                continue
            elif declared.name in self.settings.held and not self._is_changed(node, declared):
                value = self._held(declared)
            elif declared.kind == "parameter" or self._is_written(node, declared):
                value = self.step.tensor(declared.name, to_numpy(_master(declared)), self._changes(declared))
            else:
                value = Constant(declared.value.detach())
            if isinstance(value, Var) and value.dtype != onnx_dtype(declared.value.dtype):
                self.masters[node] = value, onnx_dtype(declared.value.dtype)
                continue
            self.c.known[node] = value
            if isinstance(value, Var):
                self.c.resident.add(value.name)

    def _is_changed(self, node: torch.fx.Node, declared: Input) -> bool:
        """Whether a training step gives a tensor another value."""
        trained = declared.name in self.grads and declared.name in self.trained
        return bool(self.grads) and (trained or self._is_written(node, declared))

    def _held(self, declared: Input) -> Var:
        """A state whose next value is itself."""
        value = self.step.tensor(declared.name, to_numpy(_master(declared)), True)
        self.b.group = LayerGroup(declared.name, "state", "update")
        self.step.following[declared.name] = self.b.unary("Identity", value)
        return value

    def _changes(self, declared: Input) -> bool:
        trained = declared.name in self.grads and declared.name in self.trained
        return declared.kind == "buffer" or trained

    def _is_written(self, node: torch.fx.Node, declared: Input) -> bool:
        if declared.kind != "buffer":
            return False
        last = self.following[declared.name]
        while last.target in _SAME:
            last = last.args[0]
        return last is not node

    # --- order

    def _runs(self) -> Iterator[tuple[LayerGroup, list[torch.fx.Node]]]:
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
            yield LayerGroup(name, layer.kind, phase), computing[start:at]
            start = at

    def _due(self) -> dict[torch.fx.Node, list[str]]:
        """{last node of a run: parameters to update then}: their gradient is made and nothing reads them any more."""
        position = {node: i for i, node in enumerate(self.nodes)}
        ends = {node: run[-1] for _, run in self._runs() for node in run}
        due: dict[torch.fx.Node, list[str]] = {}
        for node, declared in zip(self.placeholders, self.traced.inputs, strict=True):
            if declared.kind == "parameter" and self._changes(declared):
                readers = [r for alias in self._aliases(node, declared) for r in self._readers(alias)]
                last = max([self.grads[declared.name], *readers], key=position.__getitem__)
                due.setdefault(ends[last], []).append(declared.name)
        return due

    def _aliases(self, node: torch.fx.Node, declared: Input) -> list[torch.fx.Node]:
        """The placeholders of a parameter and of the tensors tied to it."""
        pairs = zip(self.placeholders, self.traced.inputs, strict=True)
        return [node, *(n for n, other in pairs if other.kind == "alias" and other.name == declared.name)]

    def _readers(self, node: torch.fx.Node) -> Iterator[torch.fx.Node]:
        """Nodes that read a tensor directly or through views."""
        for user in node.users:
            if user.target in _VIEWS:
                yield from self._readers(user)
            elif user.op == "call_function":
                yield user

    # --- buffers

    def _run_late(self, node: torch.fx.Node, _b: Builder) -> dict[str, Var]:
        """Lower a node that only makes next values of buffers, and return those it completes."""
        self.c.run(node)
        known = self.c.known[node]
        ends = [name for name, following in self.following.items() if following is node and name in self.step.initial]
        found: dict[str, Var] = {}
        for name in ends:
            if name not in self.step.following:
                value = self.c.value(known)
                made = {output for made in self.b.nodes[self.update_start :] for output in made.output}
                found[name] = value if value.name in made and value not in found.values() else self._copied(value)
        return found

    def _copied(self, value: Var) -> Var:
        """A tensor of its own: a state's next value cannot be another input, a constant or another state's."""
        return self.b.unary("Identity", value)

    def _results(self) -> list[Var]:
        """The loss and what was returned beside it, each in a tensor of its own that some node makes."""
        made, found = {output for node in self.b.nodes for output in node.output}, list[Var]()
        self.b.group = LayerGroup("loss", "loss", "backward" if self.grads else "forward")
        for node in (self.loss, *self.others.values()):
            value = self.c.value(self.c.known[node])
            own = value.name in made and value not in found
            found.append(value if own else self._copied(value))
        return found

    def _follow_buffers(self) -> None:
        """Buffers whose next value the step computes anyway get a copy of it."""
        for name, node in self.following.items():
            if name in self.step.initial and name not in self.step.following:
                self.b.group = LayerGroup(name, "buffer", "update")
                copied = self.b.unary("Identity", self.c.value(self.c.known[node]), name=f"{name}.next")
                self.step.following[name] = copied


def _inputs(node: torch.fx.Node) -> list[torch.fx.Node]:
    return list(node.all_input_nodes)


def _master(declared: Input) -> torch.Tensor:
    """A parameter in the type that it is trained in: float32 where the module has it in half precision."""
    value = declared.value
    return (
        value.float()
        if declared.kind == "parameter" and value.is_floating_point() and value.element_size() < 4
        else value
    )


def _ancestors(
    wanted: Iterable[torch.fx.Node], inputs: Callable[[torch.fx.Node], list[torch.fx.Node]]
) -> set[torch.fx.Node]:
    """`wanted` and what they depend on."""
    pending, found = list(wanted), set[torch.fx.Node]()
    while pending:
        node = pending.pop()
        if node not in found:
            found.add(node)
            pending += inputs(node)
    return found
