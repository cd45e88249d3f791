"""Makes planned steps of one module: a plan for each shape of the batch, and for evaluation."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import torch

from planc.compiler.knee import compile_within
from planc.compiler.options import CompileOptions
from planc.compiler.request import CompileRequest
from planc.importer.load import ModelFile
from planc.profiling.meter import Progress
from planc.profiling.target import target_of
from planc.runtime.step import TrainingStep, load
from planc.torch.batch import Batch
from planc.torch.export import Exported, exported, exported_evaluation
from planc.training.step_options import StepOptions


@dataclass(frozen=True)
class Planned:
    """A loaded step and what its inputs and outputs stand for; `structure` is that of what evaluation returns."""

    step: TrainingStep
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    others: tuple[str, ...]
    structure: Any = None


@dataclass(frozen=True)
class Maker:
    """Everything that a plan of this module depends on but the batch."""

    model: torch.nn.Module
    loss: Callable[..., Any]
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer]
    options: StepOptions
    compiling: CompileOptions
    device: str
    host_tier: str | None
    autocast: torch.dtype | None
    on_progress: Progress

    def training(self, batch: Batch) -> Planned:
        """A training step for batches like `batch`, from the state that module and optimizer have now."""
        forms = target_of(self.device).forms
        return self._loaded(exported(self.model, self.loss, batch, self.optimizer, forms, self.options, self.autocast))

    def evaluation(self, batch: Batch, held: Collection[str]) -> Planned:
        """The forward pass in evaluation mode, with `held` as state."""
        found, structure = exported_evaluation(self.model, batch, held, target_of(self.device).forms, self.autocast)
        return self._loaded(found, structure)

    def _loaded(self, found: Exported, structure: Any = None) -> Planned:
        request = CompileRequest(found.model, self.device, on_progress=self.on_progress, host_tier=self.host_tier)
        job = request.resolve()
        plan = compile_within(job, self.compiling).plan
        step = load(plan, job.imported, seed=self.options.seed)
        _forget_initial_values(step.imported.file)
        return Planned(step, found.inputs, found.outputs, found.others, structure)


def _forget_initial_values(file: ModelFile) -> None:
    """The step has its state: the model need not hold a second copy of every parameter."""
    inputs = {value.name for value in file.proto.graph.input}
    for tensor in file.proto.graph.initializer:
        if tensor.name in inputs:
            bare = onnx.TensorProto(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type)
            tensor.CopyFrom(bare)
