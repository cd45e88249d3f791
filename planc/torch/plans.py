"""Makes planned steps of one module: a plan for each shape of the batch, and for evaluation."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import msgspec
import onnx
import torch

from planc.compiler.job import CompileJob
from planc.compiler.knee import AUTO
from planc.compiler.options import CompileOptions
from planc.compiler.plan_cache import cached_plan
from planc.compiler.request import CompileRequest
from planc.importer.import_model import ImportedModel
from planc.importer.load import ModelFile
from planc.plan.codec import encoded
from planc.plan.plan import Plan
from planc.profiling.meter import Progress
from planc.profiling.target import target_of
from planc.runtime.ranks.group import current_group
from planc.runtime.step import TrainingStep, load
from planc.torch.batch import Batch
from planc.torch.export import Exported, exported, exported_evaluation
from planc.torch.outside import OutsideValues
from planc.torch.owner import owner_of
from planc.torch.state import tensors_of
from planc.training.step_options import StepOptions


@dataclass(frozen=True)
class Planned:
    """A loaded step and what its inputs and outputs stand for; `inputs` maps places of a batch to the graph's names,
    `others` and `form` say what the loss returned, `outside` knows what was read from Python, `structure` is that of what
    evaluation returns."""

    step: TrainingStep
    inputs: Mapping[str, str]
    outputs: tuple[str, ...]
    others: tuple[str, ...]
    form: type
    outside: OutsideValues
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
    shared: bool = False

    @cached_property
    def owner(self) -> torch.nn.Module:
        """The module that the state's names are of."""
        return owner_of(self.model, self.loss)

    def training(self, batch: Batch, micro_batches: int, first_bytes: int | None = None) -> Planned:
        """A training step for so many micro-batches like `batch`, from the state that module and optimizer have now.

        It may take what the first plan was given, `first_bytes`, where its own share would be less: a share of the peak of
        a small batch may not even hold the state.
        """
        self.on_progress(0, 3, "tracing the module")
        options, forms = replace(self.options, accumulate=micro_batches), target_of(self.device).forms
        held = frozenset(tensors_of(self.owner)) if self.shared else frozenset[str]()
        found = exported(self.model, self.loss, batch, self.optimizer, forms, options, self.autocast, held)
        return self._loaded(found, batch, first_bytes)

    def evaluation(self, batch: Batch, held: Collection[str], first_bytes: int) -> Planned:
        """The forward pass in evaluation mode, with `held` as state."""
        self.on_progress(0, 3, "tracing the module for evaluation")
        found, structure = exported_evaluation(self.model, batch, held, target_of(self.device).forms, self.autocast)
        return self._loaded(found, batch, first_bytes, structure)

    def _loaded(self, found: Exported, batch: Batch, first_bytes: int | None, structure: Any = None) -> Planned:
        plan: Plan
        model: onnx.ModelProto | ImportedModel
        if self.options.sharded and structure is None:
            plan, model = self._compiled_in_turn(found, first_bytes)
        elif self.options.ranks > 1 and structure is None:
            text = current_group().from_first(
                "compile", lambda: encoded(self._compiled(found, first_bytes)[0]).decode()
            )
            plan, model = msgspec.json.decode(text, type=Plan), found.model
        else:
            plan, model = self._compiled(found, first_bytes)
        self.on_progress(2, 3, "loading")
        step = load(plan, model, seed=self.options.seed)
        _forget_initial_values(step.imported.file)
        self.on_progress(3, 3, "ready")
        inputs = dict(zip(batch.placed, found.inputs, strict=True))
        return Planned(step, inputs, found.outputs, found.others, found.form, found.outside, structure)

    def _compiled_in_turn(self, found: Exported, first_bytes: int | None) -> tuple[Plan, ImportedModel]:
        """The plan of this rank. Ranks measure one after the other: together they would measure each other's noise."""
        group = current_group()
        with group.failing():
            for rank in range(group.size):
                if rank == group.rank:
                    job = self._request(found).resolve()
                group.meet(f"costs of rank {rank}", "", float("inf"))
            return self._planned(job, first_bytes)

    def _compiled(self, found: Exported, first_bytes: int | None) -> tuple[Plan, ImportedModel]:
        return self._planned(self._request(found).resolve(), first_bytes)

    def _request(self, found: Exported) -> CompileRequest:
        return CompileRequest(found.model, self.device, on_progress=self.on_progress, host_tier=self.host_tier)

    def _planned(self, job: CompileJob, first_bytes: int | None) -> tuple[Plan, ImportedModel]:
        options = self.compiling
        self.on_progress(1, 3, "planning")
        if first_bytes is not None:
            own = 0 if options.budget == AUTO else job.budget_bytes(options.budget)
            options = replace(options, budget=f"{max(own, first_bytes)}B")
        return cached_plan(job, options), job.imported


def _forget_initial_values(file: ModelFile) -> None:
    """The step has its state: the model need not hold a second copy of every parameter."""
    inputs = {value.name for value in file.proto.graph.input}
    for tensor in file.proto.graph.initializer:
        if tensor.name in inputs:
            bare = onnx.TensorProto(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type)
            tensor.CopyFrom(bare)
