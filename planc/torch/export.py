"""`export_training_step`: a PyTorch module, its loss and its optimizer as the ONNX graph of one training step."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import torch
import torch.utils._pytree as pytree

from planc.devices import AUTO
from planc.errors import ModelError, UsageError
from planc.importer.save import write_model
from planc.profiling.target import forms_of
from planc.torch.assemble import assemble
from planc.torch.attention import taken_by
from planc.torch.batch import Batch, batch_of
from planc.torch.outside import OutsideValues, noted_values
from planc.torch.rules import HANDLERS
from planc.torch.settings import Settings, settings_of
from planc.torch.trace import trace_step
from planc.training.emit.forms import table_for
from planc.training.emit.opset import in_oldest_opset
from planc.training.emit.widen import widen
from planc.training.optimizers import Optimizer
from planc.training.step_options import PLAIN, StepOptions


def export_training_step(
    model: torch.nn.Module,
    loss: Callable[..., torch.Tensor],
    example_batch: tuple[Any, Any],
    optimizer: Optimizer | torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
    path: str | Path | None = None,
    *,
    device: str = AUTO,
    options: StepOptions = PLAIN,
    autocast: torch.dtype | None = None,
) -> onnx.ModelProto:
    """The training graph of `loss(model(*inputs), *targets)` and one step of `optimizer`, written to `path` if given.

    `example_batch` is (inputs, targets). Inputs are a tensor, a tuple of positional or a dict of keyword arguments;
    targets a tensor, a tuple, or None for a loss of the output alone. Their shapes become the graph's; its batch
    inputs are named after the arguments of `forward`, a sole target `labels` (integers) or `target`. State keeps the
    module's own names, so that `load_into` can bring it back; its initial values are the module's, and the optimizer's
    where it has already run. `optimizer` is planc's, one of torch.optim or several; learning rates and other
    hyper-parameters are inputs of the graph. `device` picks among equivalent operator forms: `cpu` (standard operators),
    `onednn`, `cuda`, or those that suit this machine. `options` are clipping, accumulation (the example is one
    micro-batch then), loss scale and averaged weights. What the loss returns beside a scalar (a tuple, or a mapping with
    the key `loss`) are further outputs. `autocast` runs module and loss under `torch.autocast` in that type. Parameters in
    half precision get float32 masters, which are the state.

    Raises UsageError for a module in evaluation mode or an optimizer planc has no rule for, and ModelError for a module
    that torch cannot trace to one graph of fixed shapes or whose operators have no lowering.
    """
    step = exported(model, loss, batch_of(example_batch), optimizer, forms_of(device), options, autocast).model
    if path is not None:
        write_model(step, Path(path))
    return step


@dataclass(frozen=True)
class Exported:
    """A training graph; `inputs` names the tensors of a batch in order, `others` what the loss returned beside a scalar
    and `form` as what (`TracedStep`), `outside` knows what was read from Python."""

    model: onnx.ModelProto
    inputs: tuple[str, ...]
    others: tuple[str, ...]
    form: type
    outside: OutsideValues

    @property
    def outputs(self) -> tuple[str, ...]:
        """The graph's names of the loss and of the others."""
        return tuple(value.name for value in self.model.graph.output[: 1 + len(self.others)])


def exported(
    model: torch.nn.Module,
    loss: Callable[..., Any],
    batch: Batch,
    optimizer: Optimizer | torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
    device: str,
    options: StepOptions,
    autocast: torch.dtype | None = None,
    held: frozenset[str] = frozenset(),
) -> Exported:
    """As `export_training_step`, of a batch taken apart, with the names of what goes in and comes out. Parameters and
    buffers in `held` are state also where the step does not change them."""
    if not model.training:
        raise UsageError("the module is in evaluation mode: call model.train() before exporting its training step")
    table, _ = table_for(device), batch.placed  # which refuses what no step takes
    given = (batch.positional, dict(batch.named), batch.targets)
    with noted_values(model, loss) as outside:
        traced = trace_step(model, loss, *given, list(HANDLERS), autocast=autocast, taken=taken_by(table))
    outside.add_constants(i.value for i in traced.inputs if i.kind == "constant")
    names = batch.names(model, {i.name for i in traced.inputs if i.kind != "batch"})
    parameters = {i.name: i.value for i in traced.inputs if i.kind == "parameter"}
    if not parameters:
        raise ModelError(f"{type(model).__name__} has no parameter that requires a gradient")
    settings = replace(settings_of(optimizer, parameters, options), held=held)
    step = in_oldest_opset(widen(assemble(traced, names, settings, table), table.device))
    return Exported(step, tuple(names), traced.others, traced.form, outside)


def exported_evaluation(
    model: torch.nn.Module, batch: Batch, held: Collection[str], device: str, autocast: torch.dtype | None = None
) -> tuple[Exported, Any]:
    """The forward pass in evaluation mode, with the parameters and buffers in `held` as state that it never changes.

    Also the structure of what the module returns. Raises ModelError where it cannot be traced.
    """
    spec: list[Any] = []

    def leaves(output: Any) -> tuple[torch.Tensor, ...]:
        flat, structure = pytree.tree_flatten(output)
        spec.append(structure)
        return tuple(flat)

    table = table_for(device)
    with noted_values(model, leaves) as outside, in_evaluation(model):
        given = (batch.positional, dict(batch.named), ())
        traced = trace_step(
            model, leaves, *given, list(HANDLERS), gradients=False, autocast=autocast, taken=taken_by(table)
        )
    outside.add_constants(i.value for i in traced.inputs if i.kind == "constant")
    names = batch.names(model, {i.name for i in traced.inputs if i.kind != "batch"})
    settings = Settings((), held=frozenset(held))
    step = in_oldest_opset(widen(assemble(traced, names, settings, table), table.device))
    return Exported(step, tuple(names), traced.others, traced.form, outside), spec[-1]


@contextmanager
def in_evaluation(model: torch.nn.Module) -> Iterator[None]:
    """Every module in evaluation mode; afterwards each as it was."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
