"""`export_training_step`: a PyTorch module, its loss and its optimizer as the ONNX graph of one training step."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
import torch.utils._pytree as pytree

from planc.errors import ModelError, UsageError
from planc.importer.save import write_model
from planc.torch.assemble import assemble
from planc.torch.rules import HANDLERS
from planc.torch.settings import settings_of
from planc.torch.trace import trace_step
from planc.training.emit.forms import table_for
from planc.training.emit.widen import widen
from planc.training.optimizers import Optimizer
from planc.training.prepare.losses import LABELS, TARGET
from planc.training.step_options import PLAIN, StepOptions


def export_training_step(
    model: torch.nn.Module,
    loss: Callable[..., torch.Tensor],
    example_batch: tuple[Any, Any],
    optimizer: Optimizer | torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
    path: str | Path | None = None,
    *,
    device: str = "cpu",
    options: StepOptions = PLAIN,
) -> onnx.ModelProto:
    """The training graph of `loss(model(*inputs), *targets)` and one step of `optimizer`, written to `path` if given.

    `example_batch` is (inputs, targets). Inputs are a tensor, a tuple of positional or a dict of keyword arguments;
    targets a tensor, a tuple, or None for a loss of the output alone. Their shapes become the graph's; its batch
    inputs are named after the arguments of `forward`, a sole target `labels` (integers) or `target`. State keeps the
    module's own names, so that `load_into` can bring it back; its initial values are the module's, and the optimizer's
    where it has already run. `optimizer` is planc's, one of torch.optim or several; learning rates and other
    hyper-parameters are inputs of the graph. `device` (`cpu` or `cuda`) picks among equivalent operator forms; `options`
    are clipping, accumulation (the example is one micro-batch then), loss scale and averaged weights. What the loss
    returns beside a scalar (a tuple, or a mapping with the key `loss`) are further outputs.

    Raises UsageError for a module in evaluation mode or an optimizer planc has no rule for, and ModelError for a module
    that torch cannot trace to one graph of fixed shapes or whose operators have no lowering.
    """
    if not model.training:
        raise UsageError("the module is in evaluation mode: call model.train() before exporting its training step")
    if not isinstance(example_batch, tuple) or len(example_batch) != 2:
        raise UsageError("example_batch must be (inputs, targets)")
    positional, named = _arguments(example_batch[0])
    targets = _targets(example_batch[1])
    table = table_for(device)
    traced = trace_step(model, loss, positional, named, targets, list(HANDLERS))
    names = _batch_names(model, positional, named, targets, {i.name for i in traced.inputs if i.kind != "batch"})
    parameters = {i.name: i.value for i in traced.inputs if i.kind == "parameter"}
    if not parameters:
        raise ModelError(f"{type(model).__name__} has no parameter that requires a gradient")
    step = widen(assemble(traced, names, settings_of(optimizer, parameters, options), table), table.device)
    if path is not None:
        write_model(step, Path(path))
    return step


def _arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, dict):
        return (), inputs
    return (tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)), {}


def _targets(targets: Any) -> tuple[Any, ...]:
    if targets is None:
        return ()
    return tuple(targets) if isinstance(targets, (tuple, list)) else (targets,)


def _batch_names(
    model: torch.nn.Module, positional: tuple[Any, ...], named: Mapping[str, Any], targets: tuple[Any, ...],
    taken: Iterable[str],
) -> list[str]:  # fmt: skip
    """A name per tensor of the batch, in the order of the traced inputs."""
    parameters = list(inspect.signature(model.forward).parameters)
    heads = [parameters[i] if i < len(parameters) else f"input{i}" for i in range(len(positional))]
    labelled: list[tuple[str, Any]] = [*zip(heads, positional, strict=True), *named.items()]
    labelled += [(_target_name(t, i, targets), t) for i, t in enumerate(targets)]
    names: list[str] = []
    for head, value in labelled:
        for key, _ in pytree.tree_flatten_with_path(value)[0]:
            names.append(head + "".join(f".{_key(part)}" for part in key))
    used = set(taken)
    return [f"batch.{name}" if name in used else name for name in names]


def _target_name(target: Any, position: int, targets: Sequence[Any]) -> str:
    if len(targets) > 1 or not isinstance(target, torch.Tensor):
        return f"{TARGET}.{position}" if len(targets) > 1 else TARGET
    return TARGET if target.dtype.is_floating_point else LABELS


def _key(part: Any) -> str:
    return str(getattr(part, "key", getattr(part, "idx", getattr(part, "name", part))))
