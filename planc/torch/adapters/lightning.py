"""`PlannedTraining`: a Lightning callback that plans the training step. Needs lightning or pytorch-lightning."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from planc.errors import UsageError
from planc.runtime.state import Generators
from planc.torch.compile_step import compile_step, loss_scale_of
from planc.torch.step import CompiledStep
from planc.torch.tensors import from_numpy, to_numpy
from planc.training.step_options import DynamicScale

try:
    from lightning.pytorch.callbacks import Callback
except ImportError:
    from pytorch_lightning.callbacks import Callback

_PRECISIONS = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
_GENERATORS = "generators"


class PlannedTraining(Callback):
    """Trains a LightningModule under `budget`: `Trainer(callbacks=[PlannedTraining(budget="50%")])`.

    `training_step(batch, batch_idx)` is traced with `batch_idx` 0 and returns the loss, or a dict that holds it; what it
    logs is returned by the planned step and logged after each. `configure_optimizers` gives one optimizer; schedulers are
    stepped per step or epoch. `gradient_clip_val` and the precisions 32-true, bf16-mixed and 16-mixed, with the settings
    of its GradScaler, are obeyed. Validation,
    checkpoints and loggers are Lightning's, of the trained state. Further keyword arguments go to `compile_step`.
    """

    def __init__(self, budget: str | int | float | None = None, **planned: Any) -> None:
        self.budget, self.planned = budget, planned
        self.step: CompiledStep | None = None
        """The planned step, from the first batch on."""
        self._loaded: dict[str, Any] = {}
        self._undo: list[Any] = []
        self._scale: float | DynamicScale = 1.0

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Take the place of the module's training step and of Lightning's optimization."""
        _require_supported(trainer, pl_module)
        wrapped = _Step(pl_module)

        def planned(batch: Any, batch_idx: int) -> torch.Tensor:
            if self.step is None:
                self.step = self._compiled(trainer, wrapped, batch)
            found = self.step((batch,))
            for name, value, options in wrapped.logged:
                pl_module.log(name, found[_key(name)] if value is None else value, **options)
            pl_module.optimizers().step()  # finds no gradient, but Lightning counts it
            _share_count(trainer)
            _schedule(trainer, pl_module, batch_idx)
            loss: torch.Tensor = found["loss"]
            return loss

        pl_module.training_step, pl_module.automatic_optimization = planned, False
        hook = pl_module.register_state_dict_pre_hook(lambda *_: self.sync())
        self._undo = [hook.remove, lambda: setattr(pl_module, "automatic_optimization", True)]
        self._undo.append(lambda: delattr(pl_module, "training_step"))
        self._take_scaler(trainer.precision_plugin)

    def _take_scaler(self, precision: Any) -> None:
        """The step scales its loss and looks for infinities; Lightning's scaler would miss the gradients."""
        scaler = getattr(precision, "scaler", None)
        if scaler is not None:
            self._scale, precision.scaler = loss_scale_of(scaler), None
            self._undo.append(lambda: setattr(precision, "scaler", scaler))

    def _compiled(self, trainer: Any, wrapped: "_Step", batch: Any) -> CompiledStep:
        if self.planned.get("shard"):
            raise UsageError("a Lightning checkpoint holds one rank's state: leave shard out, or use compile_step")
        by_value = trainer.gradient_clip_algorithm == "value"
        clip = trainer.gradient_clip_val or None
        options = {
            "budget": self.budget,
            "autocast": _PRECISIONS[trainer.precision],
            "clip_value" if by_value else "clip_norm": clip,
            "loss_scale": self._scale,
            "new_shapes": True,
            **self.planned,
        }
        step = compile_step(wrapped, None, trainer.optimizers[0], ((batch,), None), **options)
        if self._loaded:
            step.training.go_on_from(*_restored(self._loaded, step))
            step.sync()
            self._loaded = {}
        return step

    # --- state

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Go on counting where the checkpoint is of a training without a plan."""
        del pl_module
        _share_count(trainer)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Checkpoints at the end see the trained state."""
        del trainer, pl_module
        self.sync()

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Validate the trained state."""
        del trainer, pl_module
        self.sync()

    def state_dict(self) -> dict[str, Any]:
        """The step's state with the places of its generators, for a checkpoint; Lightning writes the optimizer's after."""
        if self.step is None:
            return self._loaded
        with self.step.turn():
            self.sync()
            (values, generators), steps = self.step.training.snapshot(), self.step.steps
        state = {name: from_numpy(value) for name, value in values.items()}
        places = None if generators is None else [generators.drawn, generators.seed]
        return {"state": state, _GENERATORS: places, "steps": steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep a checkpoint's state until the step is there."""
        self._loaded = state_dict

    def sync(self) -> None:
        """Bring the trained state into module and optimizer."""
        if self.step is not None and not self.step.closed:
            self.step.sync()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """The module holds the trained state."""
        del trainer, pl_module
        self.sync()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Give the module its own training step back, and free the plan's memory."""
        del trainer, pl_module, stage
        for undo in self._undo:
            undo()
        self._undo = []
        if self.step is not None:
            self.step.close()
        self.step = None


class _Step(torch.nn.Module):
    """The module's training step as a module; what it logs becomes outputs."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner, self._original = inner, inner.training_step
        self._numbered = len(inspect.signature(inner.training_step).parameters) > 1
        self.logged: list[tuple[str, Any, dict[str, Any]]] = []
        """Name, value where it is no tensor, and options of what the step logs."""

    def forward(self, batch: Any) -> dict[str, torch.Tensor]:
        found: dict[str, Any] = {}
        with self._recording(found):
            made = self._original(batch, 0) if self._numbered else self._original(batch)
        loss = made["loss"] if isinstance(made, dict) else made
        if loss is None:
            raise UsageError("training_step returned None: a planned step needs a loss for every batch")
        return {"loss": loss, **{_key(n): v.detach() for n, v in found.items() if isinstance(v, torch.Tensor)}}

    @contextmanager
    def _recording(self, found: dict[str, Any]) -> Iterator[None]:
        """Note what is logged instead of logging it."""
        self.logged.clear()  # the same list: tracing puts attributes back

        def log(name: str, value: Any, *args: Any, **options: Any) -> None:
            if args:
                raise UsageError(f"log({name!r}, ...) with positional options: name them")
            known = isinstance(value, torch.Tensor)
            if known and value.dim():
                raise UsageError(f"log({name!r}): a planned step logs scalars, not a tensor of {list(value.shape)}")
            found[name] = value
            self.logged.append((name, None if known else value, options))

        self.inner.log = log
        try:
            yield
        finally:
            del self.inner.log


def _key(name: str) -> str:
    return f"logged {name}"


def _restored(saved: dict[str, Any], step: CompiledStep) -> tuple[dict[str, Any], Any]:
    """A checkpoint's state and generators as `go_on_from` takes them."""
    step.steps = saved["steps"]
    generators = step.training.generators
    if generators is not None and saved[_GENERATORS] is not None:
        drawn, seed = saved[_GENERATORS]
        generators = Generators(drawn, seed)
    return {name: to_numpy(value) for name, value in saved["state"].items()}, generators


def _require_supported(trainer: Any, module: Any) -> None:
    """Raise UsageError for what a planned step cannot obey."""
    if not module.automatic_optimization:
        raise UsageError(
            f"{type(module).__name__} optimizes by hand (automatic_optimization = False): PlannedTraining plans a "
            "training_step that returns the loss; in one that updates, use planc.torch.compile_step"
        )
    if len(trainer.optimizers) != 1:
        raise UsageError(f"PlannedTraining takes one optimizer, configure_optimizers gave {len(trainer.optimizers)}")
    if trainer.accumulate_grad_batches != 1:
        raise UsageError(
            "accumulate_grad_batches > 1: give PlannedTraining(accumulate=N) and batches that are N times as large"
        )
    if trainer.precision not in _PRECISIONS:
        raise UsageError(f"precision {trainer.precision!r}: PlannedTraining has {', '.join(_PRECISIONS)}")
    if trainer.world_size != 1:
        raise UsageError("PlannedTraining trains on one device: give Trainer(devices=1)")
    if any(config.reduce_on_plateau for config in trainer.lr_scheduler_configs):
        raise UsageError("a scheduler that watches a metric is not stepped by PlannedTraining: step it in the module")


def _share_count(trainer: Any) -> None:
    """Let `global_step` be the same with Lightning's optimization, after the training and in checkpoints, as without."""
    loop = trainer.fit_loop.epoch_loop
    ours, usual = (
        progress.total
        for progress in (
            loop.manual_optimization.optim_step_progress,
            loop.automatic_optimization.optim_progress.optimizer.step,
        )
    )
    ours.completed = usual.completed = max(ours.completed, usual.completed)


def _schedule(trainer: Any, module: Any, batch_idx: int) -> None:
    """Step the schedulers when Lightning does: behind the batch, before its callbacks and a validation."""
    due = {"step": batch_idx + 1}
    if trainer.is_last_batch or due["step"] == trainer.num_training_batches:
        due["epoch"] = trainer.current_epoch + 1
    for interval, count in due.items():
        for config in trainer.lr_scheduler_configs:
            if config.interval == interval and count % config.frequency == 0:
                module.lr_scheduler_step(config.scheduler, None)
