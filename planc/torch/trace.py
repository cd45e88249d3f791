"""Traces one training step of a PyTorch module: loss, gradients and buffer updates as one functional ATen graph.

`torch.export` gives the forward graph with its module hierarchy. That graph is run once more, with autograd, under
`make_fx`: each forward operator notes which autograd nodes it created, so that every operator of the backward pass is
known to belong to a forward layer.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch._decomp import core_aten_decompositions, get_decompositions
from torch._subclasses.functional_tensor import dispatch_functionalize
from torch.export.graph_signature import InputKind
from torch.fx.experimental.proxy_tensor import get_proxy_mode, make_fx

from planc.errors import ModelError
from planc.torch.canonical import CANONICAL
from planc.torch.layers import ModuleLayer, layers_of

FORWARD, BACKWARD = "forward", "backward"


@dataclass(frozen=True)
class Input:
    """One placeholder of the step: a `parameter`, `buffer`, `constant` or `batch` tensor and its name.

    An `alias` is one more name of a tied tensor and carries the first one. `value` is the tensor at export; for a batch
    input the example.
    """

    kind: str
    name: str
    value: torch.Tensor


@dataclass(frozen=True)
class TracedStep:
    """The step's graph: outputs are (loss, gradient or None per parameter, following value per buffer).

    `placed` says for each node the layer and phase that made it.
    """

    graph: torch.fx.Graph
    inputs: tuple[Input, ...]
    placed: Mapping[torch.fx.Node, tuple[ModuleLayer, str]]


class _Step(torch.nn.Module):  # type: ignore[misc]
    """The module and its loss as one module, whose hierarchy torch.export records."""

    def __init__(self, model: torch.nn.Module, loss: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, inputs: tuple[Any, ...], named: dict[str, Any], targets: tuple[Any, ...]) -> torch.Tensor:
        return self.loss(self.model(*inputs, **named), *targets)


def trace_step(
    model: torch.nn.Module,
    loss: Callable[..., torch.Tensor],
    inputs: tuple[Any, ...],
    named: dict[str, Any],
    targets: tuple[Any, ...],
    kept: Sequence[Any],
) -> TracedStep:
    """Trace loss and gradients of `loss(model(*inputs, **named), *targets)`; operators in `kept` stay whole.

    Raises ModelError with torch's own reason where the step cannot be traced to one graph of fixed shapes.
    """
    wrapped = _Step(model, loss)
    # torch.export makes one input of a tensor that is given twice, as an autoencoder's input and target are.
    inputs, named, targets = pytree.tree_map_only(torch.Tensor, torch.clone, (inputs, named, targets))
    try:
        program = torch.export.export(wrapped, (inputs, named, targets), strict=False)
    except Exception as error:  # torch.export raises many kinds; all mean that the module is not exportable
        raise ModelError(f"torch.export cannot trace {type(model).__name__}: {_first_line(error)}") from error
    listed = tuple(_inputs(program, wrapped, (inputs, named, targets)))
    run = _TracedForward(program.graph_module, layers_of(program.graph_module.graph))
    decompositions = {k: v for k, v in _decompositions().items() if k not in set(kept)}
    step = dispatch_functionalize(_step_function(run, listed))
    with torch.enable_grad():
        traced = make_fx(step, decomposition_table=decompositions, tracing_mode="fake")(*(i.value for i in listed))
    placed = run.placed(traced.graph)
    traced.graph.eliminate_dead_code()
    return TracedStep(traced.graph, listed, placed)


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _decompositions() -> dict[Any, Callable[..., Any]]:
    """How operators without a lowering are expressed in others."""
    aten = torch.ops.aten
    more = [aten.nll_loss2d_forward, aten.nll_loss2d_backward, aten.mse_loss_backward, aten.native_group_norm_backward]
    more += [aten.smooth_l1_loss_backward, aten.huber_loss_backward, aten.binary_cross_entropy_backward, aten.std_mean]
    return {**core_aten_decompositions(), **get_decompositions(more)}


def _inputs(program: Any, step: torch.nn.Module, examples: Any) -> Iterator[Input]:
    """What each placeholder of the exported graph is; names lose the prefix of the wrapping module."""
    tensors = dict(step.named_parameters(remove_duplicate=False)) | dict(step.named_buffers(remove_duplicate=False))
    leaves, first = iter(pytree.tree_leaves(examples)), dict[int, str]()
    for spec in program.graph_signature.input_specs:
        if spec.kind is InputKind.USER_INPUT:
            value = next(leaves)
            if not isinstance(value, torch.Tensor):
                raise ModelError(f"example input {spec.arg.name!r} is {value!r}; every input must be a tensor")
            yield Input("batch", spec.arg.name, value)
            continue
        name = str(spec.target).removeprefix("model.")
        value = tensors.get(spec.target, program.constants.get(spec.target))
        if not isinstance(value, torch.Tensor):
            raise ModelError(f"the step reads {spec.target!r}, which is no tensor of the module")
        if id(value) in first:
            yield Input("alias", first[id(value)], value)
            continue
        first[id(value)] = name
        trained = spec.kind is InputKind.PARAMETER and value.requires_grad
        yield Input("parameter" if trained else "buffer" if spec.kind is InputKind.BUFFER else "constant", name, value)


def _step_function(run: "_TracedForward", inputs: Sequence[Input]) -> Callable[..., Any]:
    """(loss, gradients, next buffers) as a function of all inputs."""

    def step(*values: torch.Tensor) -> Any:
        ready = _prepared(inputs, values)
        loss = run.run(*ready)[0]
        if loss.dim() or not loss.requires_grad:
            raise ModelError(f"the loss must be a scalar that depends on a parameter, not of shape {list(loss.shape)}")
        trained = [v for i, v in zip(inputs, ready, strict=True) if i.kind == "parameter"]
        with run.grad_recording(loss):
            grads = torch.autograd.grad(loss, trained, allow_unused=True)
        return loss.detach(), grads, [v for i, v in zip(inputs, ready, strict=True) if i.kind == "buffer"]

    return step


def _prepared(inputs: Sequence[Input], values: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Parameters that require gradients, buffers that may be written, one tensor for tied parameters."""
    ready: list[torch.Tensor] = []
    for declared, value in zip(inputs, values, strict=True):
        if declared.kind == "alias":
            ready.append(ready[next(i for i, other in enumerate(inputs) if other.name == declared.name)])
        elif declared.kind == "parameter":
            ready.append(value.detach().requires_grad_())
        else:
            ready.append(value.clone() if declared.kind == "buffer" else value)
    return ready


class _TracedForward(torch.fx.Interpreter):  # type: ignore[misc]
    """Runs the exported forward graph and notes where in the traced graph each layer begins, forward and backward."""

    def __init__(self, module: torch.fx.GraphModule, layers: Mapping[torch.fx.Node, ModuleLayer]) -> None:
        super().__init__(module)
        self.layers = layers
        self.marks: list[tuple[str | None, tuple[ModuleLayer, str]]] = []
        self._owned: set[Any] = set()

    def run_node(self, n: torch.fx.Node) -> Any:
        layer = self.layers.get(n)
        if layer is None:
            return super().run_node(n)
        self._mark(layer, FORWARD)
        result = super().run_node(n)
        for leaf in pytree.tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.grad_fn is not None:
                self._own(leaf.grad_fn, layer)
        return result

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        run: Callable[..., Any] = CANONICAL.get(target) or super().call_function
        return run(target, args, kwargs)

    def _mark(self, layer: ModuleLayer, phase: str) -> None:
        """Nodes that the traced graph gets from here on belong to `layer`."""
        mode = get_proxy_mode()
        last = next(reversed(mode.tracer.graph.nodes), None) if mode is not None else None
        self.marks.append((last.name if last is not None else None, (layer, phase)))

    def _own(self, function: Any, layer: ModuleLayer) -> None:
        """Autograd nodes made since the last forward operator run their backward in the name of `layer`."""
        pending = [function]
        while pending:
            at = pending.pop()
            if at is None or at in self._owned:
                continue
            self._owned.add(at)
            at.register_prehook(lambda _grads: self._mark(layer, BACKWARD))
            pending += [following for following, _ in at.next_functions]

    @contextmanager
    def grad_recording(self, loss: torch.Tensor) -> Iterator[None]:
        """The seed of the backward pass belongs to the layer that made the loss."""
        last = self.marks[-1][1][0]
        self._own(loss.grad_fn, last)
        self._mark(last, BACKWARD)
        yield

    def placed(self, graph: torch.fx.Graph) -> dict[torch.fx.Node, tuple[ModuleLayer, str]]:
        """The layer and phase of every computing node of the traced graph."""
        starts = dict(self.marks)
        found, current = {}, self.marks[0][1]
        for node in graph.nodes:
            if node.op == "call_function":
                found[node] = current
            current = starts.get(node.name, current)
        return found
