"""Traces one training step of a PyTorch module: loss, gradients and buffer updates as one functional ATen graph.

The module runs once, on fake tensors, and autograd runs backward over it, as in training: hooks, parametrizations and
autograd Functions of the module's own mean what they mean there. Every torch function that runs notes which module
called it and which autograd nodes it made, so that every operator of both passes belongs to a layer.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.utils._pytree as pytree
from torch._decomp import core_aten_decompositions, decomposition_table
from torch._subclasses.functional_tensor import FunctionalTensorMode, dispatch_functionalize
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils.stateless import _reparametrize_module

from planc.errors import ModelError, PlancError
from planc.torch import matrices
from planc.torch.attention import Taken
from planc.torch.attributes import noticed_randomness, unchanged_attributes
from planc.torch.batch import CONSTANTS, refilled
from planc.torch.canonical import canonical_operators
from planc.torch.cumulative import cumulative_statistics
from planc.torch.layers import ModuleLayer
from planc.torch.recorder import BACKWARD, FORWARD, Recorder
from planc.torch.regions import plain_checkpoints
from planc.torch.whole_modules import whole_modules
from planc.torch.written_attention import WrittenAttention, whole_written_attention

__all__ = ["BACKWARD", "FORWARD", "Input", "TracedStep", "trace_step"]

LOSS = "loss"


@dataclass(frozen=True)
class Input:
    """One placeholder of the step: a `parameter`, `buffer`, `constant` or `batch` tensor and its name.

    Parameters that need no gradient are buffers: like those the forward pass may write into them.
    `value` is the tensor at export; for a batch input the example. Tied tensors are one input, named as they first are.
    The `seed` is the gradient of the loss.
    """

    kind: str
    name: str
    value: torch.Tensor


@dataclass(frozen=True)
class TracedStep:
    """The step's graph: outputs are (loss, gradient or None per parameter, following value per buffer, others).

    `placed` says for each node the layer and phase that made it, and its `meta["source"]` the line of code. `others`
    names what the loss returns beside the loss itself, in the `form` of a dict or tuple; alone it may be a tensor.
    """

    graph: torch.fx.Graph
    inputs: tuple[Input, ...]
    placed: Mapping[torch.fx.Node, tuple[ModuleLayer, str]]
    others: tuple[str, ...]
    form: type


class _Step(torch.nn.Module):  # type: ignore[misc]
    """The module and its loss as one module, so that a loss with parameters is part of the hierarchy."""

    def __init__(self, model: torch.nn.Module, loss: Callable[..., Any], autocast: torch.dtype | None) -> None:
        super().__init__()
        self.model, self.loss, self.autocast = model, loss, autocast

    def forward(self, inputs: tuple[Any, ...], named: dict[str, Any], targets: tuple[Any, ...]) -> Any:
        if self.autocast is None:
            return self.loss(self.model(*inputs, **named), *targets)
        place = next((p.device.type for p in self.model.parameters()), "cpu")
        with torch.autocast(place, self.autocast, cache_enabled=False):
            return self.loss(self.model(*inputs, **named), *targets)


def trace_step(
    model: torch.nn.Module,
    loss: Callable[..., Any],
    inputs: tuple[Any, ...],
    named: dict[str, Any],
    targets: tuple[Any, ...],
    kept: Sequence[Any],
    *,
    gradients: bool = True,
    autocast: torch.dtype | None = None,
    taken: Taken | None = None,
) -> TracedStep:
    """Trace loss and gradients of `loss(model(*inputs, **named), *targets)`; operators in `kept` stay whole.

    `autocast` runs module and loss under `torch.autocast` in that type. Attention that is `taken` by kernels of planc's own
    stays whole too.

    The loss may return a tensor, a tuple that begins with it, or a mapping with the key `loss`; what else it returns
    follows as `others`. Without `gradients` the graph ends with the forward pass. Raises ModelError with torch's own
    reason and the line of code where the step cannot be traced to one graph of fixed shapes.
    """
    _refuse_wrappers(model)
    wrapped, examples = _Step(model, loss, autocast), (inputs, named, targets)
    left, read = frozenset[int](), frozenset[int]()
    while True:  # again where scores or probabilities turn out to be read by others than the attention they are part of
        traced, read = _traced(wrapped, examples, kept, gradients, taken, left)
        if not read:
            return traced
        left |= read


def _traced(
    wrapped: "_Step", examples: Any, kept: Sequence[Any], gradients: bool, taken: Taken | None, left: frozenset[int]
) -> tuple[TracedStep, frozenset[int]]:
    """The step, and which of the attentions that it writes out are to be left so, beside those in `left`."""
    listed = [*_state(wrapped), *_batch(examples), Input("seed", "seed", torch.ones(()))]
    step = _Traced(wrapped, listed, examples, gradients)
    whole = frozenset(kept)
    expressed = {k: v for k, v in decompositions().items() if k not in whole}
    trained = [n for n, i in enumerate(listed) if i.kind == "parameter"] if gradients else []
    held = {n: i.value.detach() for n, i in enumerate(listed) if i.kind == "buffer"}
    written = None if taken is None else WrittenAttention(taken, left, trained, held)
    with _tracing(wrapped, kept, gradients, taken), whole_written_attention(written) if written else nullcontext():
        try:
            functional = dispatch_functionalize(step, FunctionalTensorMode())
            traced = make_fx(functional, expressed, "fake", True)(*(i.value for i in listed))
        except PlancError:
            raise
        except Exception as error:  # torch raises many kinds; all mean that the step is no one static graph
            where = f" at {step.recorder.where()}" if step.recorder.where() else ""
            raise ModelError(f"{type(wrapped.model).__name__} cannot be traced{where}: {_reason(error)}") from error
    placed = step.recorder.placed(traced.graph)
    listed += _captured(traced)
    _refuse_varying_shapes(traced.graph)
    traced.graph.eliminate_dead_code()
    made = TracedStep(traced.graph, tuple(listed), placed, tuple(step.others), step.form)
    return made, frozenset() if written is None else written.read_elsewhere(traced.graph)


@contextmanager
def _tracing(module: torch.nn.Module, kept: Sequence[Any], gradients: bool, taken: Taken | None) -> Iterator[None]:
    """Everything that must hold while the step runs on fake tensors.

    `torch.compiler.is_exporting` is true, which libraries ask before they look at values; oneDNN, whose recurrent
    layers are one opaque operator, is off.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.set_grad_enabled(gradients))
        stack.enter_context(patch.multiple(torch.compiler, _is_compiling_flag=True, _is_exporting_flag=True))
        stack.callback(torch._C._set_mkldnn_enabled, torch._C._get_mkldnn_enabled())
        torch._C._set_mkldnn_enabled(False)
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(canonical_operators(kept, taken))
        stack.enter_context(plain_checkpoints(module))
        stack.enter_context(whole_modules(module))
        stack.enter_context(unchanged_attributes(module))
        stack.enter_context(noticed_randomness())
        stack.enter_context(cumulative_statistics(module))
        yield


_VALUE_DEPENDENT = ("DataDependentOutputException", "GuardOnDataDependentSymNode", "DynamicOutputShapeException")


def _reason(error: Exception) -> str:
    line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    if type(error).__name__ in _VALUE_DEPENDENT:
        return f"the value of a tensor decides what runs or how long a tensor is ({line}); planc's graphs are static"
    if "Could not find a token for effect" in line:
        return f"an operator checks its result and has no form that does not ({line})"
    return line


def decompositions() -> dict[Any, Callable[..., Any]]:
    """How operators without a lowering are expressed in others: by all that torch decomposes, and planc's forms."""
    return {**decomposition_table, **core_aten_decompositions(), **matrices.FORMS}


_WRAPPERS: dict[type[torch.nn.Module], str] = {
    torch.nn.DataParallel: "cuts every batch over the cards of one process: pass its .module",
    torch.nn.parallel.DistributedDataParallel: "exchanges gradients itself: pass its .module, and see docs/distributed.md",
    torch.jit.ScriptModule: "is compiled by torch.jit, which hides its operators: pass the module that it was made from",
}


def _refuse_wrappers(model: torch.nn.Module) -> None:
    """Raise ModelError for modules that do to a step what planc does, or that cannot be looked into."""
    for name, module in model.named_modules():
        reason = next((why for kind, why in _WRAPPERS.items() if isinstance(module, kind)), None)
        if reason is not None:
            raise ModelError(f"module {name or 'itself (the root)'} is a {type(module).__name__}, which {reason}")


def _state(step: torch.nn.Module) -> Iterator[Input]:
    """Parameters and buffers; names lose the prefix of the wrapping module."""
    for name, value in step.named_parameters():
        _refuse_parameter(name.removeprefix("model."), value)
        if value._post_accumulate_grad_hooks:
            raise ModelError(
                f"parameter {name.removeprefix('model.')!r} has a post-accumulate-grad hook, which works on torch's "
                "own .grad and cannot become part of the step; remove it"
            )
        yield Input("parameter" if value.requires_grad else "buffer", name.removeprefix("model."), value)
    for name, value in step.named_buffers():
        yield Input("buffer", name.removeprefix("model."), value)


def _refuse_parameter(name: str, value: torch.Tensor) -> None:
    """Raise ModelError for a parameter without values, or one that no state can be."""
    if isinstance(value, UninitializedParameter):
        raise ModelError(
            f"parameter {name!r} has no values yet, as those of torch's lazy modules before their first call: call the "
            "module once with a batch, and make the optimizer then"
        )
    if value.is_complex():
        raise ModelError(
            f"parameter {name!r} is of {value.dtype}, and states are real: keep real and imaginary parts as two "
            "parameters, and join them in forward with torch.complex"
        )


def _batch(examples: Any) -> Iterator[Input]:
    """Copies, because a tensor that is given twice, as an autoencoder's input and target are, is two inputs."""
    for path, value in pytree.tree_leaves_with_path(examples):
        if not isinstance(value, CONSTANTS):
            yield Input("batch", pytree.keystr(path[1:]), value.detach().clone())


def _captured(traced: torch.fx.GraphModule) -> list[Input]:
    """Tensors that the code holds elsewhere become constant inputs, in place; of their values at export."""
    graph = traced.graph
    last = [node for node in graph.nodes if node.op == "placeholder"][-1]
    placeholders: dict[str, torch.fx.Node] = {}
    found: list[Input] = []
    for node in [node for node in graph.nodes if node.op == "get_attr"]:
        if node.target not in placeholders:
            value = getattr(traced, node.target)
            if not isinstance(value, torch.Tensor):
                reader = next(iter(node.users))
                raise ModelError(
                    f"torch operator {reader.target} at {reader.meta.get('source')} reads packed weights, as quantised "
                    "modules do, and no gradient leads through them; train the float module, or with "
                    "torch.fake_quantize_per_tensor_affine"
                )
            if value.requires_grad:
                raise ModelError(
                    f"the step reads a tensor of shape {list(value.shape)} that requires a gradient but is no "
                    "parameter of the module; register it as one"
                )
            with graph.inserting_after(last):
                last = placeholders[node.target] = graph.placeholder(node.target)
            last.meta.update(node.meta)
            found.append(Input("constant", node.target, value))
        node.replace_all_uses_with(placeholders[node.target])
        graph.erase_node(node)
    return found


def _refuse_varying_shapes(graph: torch.fx.Graph) -> None:
    for node in graph.nodes:
        for value in pytree.tree_leaves(node.meta.get("val")):
            if isinstance(value, torch.Tensor) and any(isinstance(d, torch.SymInt) for d in value.shape):
                raise ModelError(
                    f"torch operator {node.target} at {node.meta.get('source')} makes a tensor as long as its input's "
                    "values say; planc's graphs are static: use torch.where or a fixed number of positions"
                )


class _Traced:
    """The step as a function of all its inputs, for make_fx to run once."""

    def __init__(self, module: _Step, inputs: Sequence[Input], batch: Any, gradients: bool) -> None:
        self.module, self.inputs, self.batch, self.gradients = module, tuple(inputs), batch, gradients
        self.recorder, self.others = Recorder(module), list[str]()
        self.form: type = torch.Tensor
        self.names = [*(n for n, _ in module.named_parameters()), *(n for n, _ in module.named_buffers())]
        self.parameters = dict(module.named_parameters())

    def __call__(self, *values: torch.Tensor) -> Any:
        ready = [self._prepared(i, v) for i, v in zip(self.inputs, values, strict=True)]
        state = dict(zip(self.names, ready, strict=False))
        trained = [n for n, i in zip(self.names, self.inputs, strict=False) if i.kind == "parameter"]
        for name in trained:
            for hook in (self.parameters[name]._backward_hooks or {}).values():
                state[name].register_hook(hook)
        with self.recorder.recording(), _reparametrize_module(self.module, state, tie_weights=True):
            result = self.module(*refilled(self.batch, ready[len(self.names) : -1]))
            following = dict(self.module.named_buffers())
        _refuse_written([n for n in trained if torch._functionalize_has_data_mutation(state[n].elem)])
        loss, others = self._split(result)
        with self.recorder.backward(loss):
            grads = self._gradients(loss, [state[name] for name in trained], ready[-1]) if self.gradients else ()
        kinds = zip(self.names, self.inputs, strict=False)
        buffers = [_fitting(i, following.get(n, state[n])) for n, i in kinds if i.kind == "buffer"]
        return loss.detach(), grads, buffers, [v.detach() for v in others]

    @staticmethod
    def _prepared(declared: Input, value: torch.Tensor) -> torch.Tensor:
        """Parameters that require gradients, buffers that may be written."""
        if declared.kind == "parameter":
            return value.detach().requires_grad_()
        frozen = isinstance(declared.value, torch.nn.Parameter)
        return value.clone() if declared.kind == "buffer" and not frozen else value

    @staticmethod
    def _gradients(loss: torch.Tensor, trained: list[torch.Tensor], seed: torch.Tensor) -> Any:
        if loss.dim() or not loss.requires_grad:
            what = f"of shape {list(loss.shape)}" if loss.dim() else "one that no trained parameter leads to"
            raise ModelError(
                f"the loss must be a scalar that depends on a parameter, not {what}; reduce it with mean or sum"
            )
        return torch.autograd.grad(loss, trained, seed.to(loss.dtype), allow_unused=True)

    def _split(self, result: Any) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The loss and the other tensors that the loss returned, whose names are noted."""
        whole = dict(result) if isinstance(result, Mapping) else result
        self.form = next((form for form in (dict, tuple, list) if isinstance(whole, form)), torch.Tensor)
        loss = whole.pop(LOSS, None) if isinstance(whole, dict) else whole
        if isinstance(whole, (tuple, list)) and whole:
            loss, whole = whole[0], {str(i): v for i, v in enumerate(whole[1:], 1)}
        if not isinstance(loss, torch.Tensor):
            raise ModelError(
                f"{_described(self.module.loss)} must return a scalar tensor, a tuple that begins with one, or a mapping "
                f"with the key {LOSS!r}, not {_shown(result)}; of several losses return the weighted sum to be trained"
            )
        paths = pytree.tree_leaves_with_path(whole) if isinstance(whole, dict) else []
        named = [(".".join(_key(k) for k in path), v) for path, v in paths if isinstance(v, torch.Tensor)]
        self.others = [name for name, _ in named]
        return loss, [v for _, v in named]


def _described(loss: Callable[..., Any]) -> str:
    """The loss function with the line that defines it."""
    code = getattr(loss, "__code__", None)
    name = getattr(loss, "__qualname__", type(loss).__name__).rpartition(".")[2]
    return f"the loss {name}" + (f" ({Path(code.co_filename).name}:{code.co_firstlineno})" if code else "")


def _shown(result: Any) -> str:
    if isinstance(result, Mapping):
        return f"one with the keys {', '.join(repr(key) for key in result)}"
    return "None" if result is None else f"a {type(result).__name__}"


def _refuse_written(names: Sequence[str]) -> None:
    """Raises ModelError for trained parameters that the forward pass changes itself."""
    if names:
        raise ModelError(
            f"the forward pass writes into the trained parameter {names[0].removeprefix('model.')!r}, whose old value the "
            "update would read; use a parametrization, or change it after the step and call refresh()"
        )


def _fitting(declared: Input, following: torch.Tensor) -> torch.Tensor:
    """The next value of a buffer. Raises ModelError where it has another shape or type than the one that it replaces."""
    then, now = ((list(t.shape), t.dtype) for t in (declared.value, following))
    if then != now:
        raise ModelError(
            f"the forward pass gives buffer {declared.name!r} of {then[0]}, {then[1]}, a value of {now[0]}, {now[1]}, and "
            "a state keeps its form; where only the first call does that, call the module once before compiling its step"
        )
    return following


def _key(part: Any) -> str:
    return str(getattr(part, "key", getattr(part, "idx", getattr(part, "name", part))))
