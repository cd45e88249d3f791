"""`PlannedTrainer`: a Hugging Face Trainer whose training step is planned. Needs the transformers package."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint

from planc.errors import UsageError
from planc.torch.compile_step import compile_step, loss_scale_of
from planc.torch.step import CompiledStep
from planc.training.step_options import DynamicScale

_STATE = "planc.safetensors"
"""In a checkpoint: what the Trainer's own files do not hold, such as averaged weights and the places of generators."""

_ITEMS = "num_items_in_batch"


class PlannedTrainer(Trainer):
    """A `transformers.Trainer` that trains under `budget`; everything else (logging, schedules, saving) is the Trainer's.

    The model must compute its own loss; a `compute_loss` or `compute_loss_func` of your own and label smoothing are
    refused. `gradient_accumulation_steps`, `max_grad_norm`, `bf16` and `fp16` of the arguments are obeyed: the
    micro-batches of an update are one planned step. Evaluation during training is planned too. Further keyword arguments
    of `compile_step` go into `planned`. Each shape of batch is compiled when it first comes: pad to few lengths.
    """

    def __init__(
        self, *args: Any, budget: str | int | float | None = None, planned: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._refuse_other_losses()
        self._budget, self._planned = budget, dict(planned or {})
        scaler, self.accelerator.scaler = self.accelerator.scaler, None  # the step scales, and looks for infinities
        self._scale = loss_scale_of(scaler) if scaler is not None else DynamicScale() if self.args.fp16 else 1.0
        self._waiting: list[dict[str, torch.Tensor]] = []
        self._resumed: Path | None = None
        self.step: CompiledStep | None = None
        """The planned step, from the first batch on."""

    def _refuse_other_losses(self) -> None:
        if self.compute_loss_func is not None:
            raise UsageError("compute_loss_func is not used by PlannedTrainer: let the model compute its loss")
        if self.label_smoother is not None:
            raise UsageError("label_smoothing_factor is not used by PlannedTrainer: let the model compute its loss")
        if type(self).compute_loss is not PlannedTrainer.compute_loss:
            raise UsageError(f"{type(self).__name__}.compute_loss is not traced: let the model compute its loss")
        if self.args.n_gpu > 1 or self.args.world_size > 1:
            raise UsageError("PlannedTrainer trains on one device: start one process that sees one GPU")

    # --- steps

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Forward, backward, clipping and update as one planned step, once all micro-batches of the update are there.

        The Trainer adds up what is returned: 0 for those that wait, the loss of all for the last. Its own update finds no
        gradient.
        """
        model.train()
        self._waiting.append(dict(self._prepare_inputs(inputs)))
        if not self.accelerator.sync_gradients:
            return torch.zeros((), device=self.args.device)
        waiting, self._waiting = self._waiting, []
        if self.model_accepts_loss_kwargs and num_items_in_batch is not None:
            parts = _with_items(waiting, float(num_items_in_batch))
        else:
            parts = waiting
        if self.step is None:
            self.step = self._compiled(model, parts)
        found = self.step(_joined(parts), micro_batches=len(parts))
        self.optimizer._is_overflow = self.step.skipped  # accelerate's note, which holds schedules back
        loss: torch.Tensor = _loss_of(found)
        return loss.detach().to(self.args.device)

    def _compiled(self, model: torch.nn.Module, parts: Sequence[dict[str, torch.Tensor]]) -> CompiledStep:
        half = torch.bfloat16 if self.args.bf16 else torch.float16 if self.args.fp16 else None
        options = {
            "budget": self._budget,
            "autocast": half,
            "clip_norm": self.args.max_grad_norm or None,
            "loss_scale": self._scale,
            "accumulate": len(parts),
            "new_shapes": True,
            "seed": self.args.seed,
            **self._planned,
        }
        module = self.accelerator.unwrap_model(model)
        optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        step = compile_step(module, None, optimizer, (parts[0], None), **options)
        if self._resumed is not None and (self._resumed / _STATE).exists():
            step.training.load_state(self._resumed / _STATE)
            step.sync()
        return step

    def _clip_grad_norm(self, model: torch.nn.Module) -> torch.Tensor | None:
        """The norm that the planned step found."""
        del model
        norm = self.step.gradient_norm if self.step is not None else None
        return None if norm is None else torch.tensor(norm)

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: torch.Tensor | None = None) -> float | None:
        """The same; None where the step does not clip, and so does not know it."""
        del model
        return None if grad_norm is None else float(grad_norm)

    # --- evaluation

    def compute_loss(
        self, model: torch.nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        """Of an evaluation: planned while the step is there, the Trainer's own before and after the training."""
        if self.step is None or model.training:
            return super().compute_loss(model, inputs, return_outputs, **kwargs)
        items = kwargs.get(_ITEMS) if self.model_accepts_loss_kwargs else None
        given = dict(inputs) if items is None else {**inputs, _ITEMS: torch.tensor(float(items))}
        outputs = self.step.evaluate(**given)
        return (_loss_of(outputs), outputs) if return_outputs else _loss_of(outputs)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """The Trainer's evaluation, of the trained state."""
        self.sync()
        found = super().evaluate(*args, **kwargs)
        self.model.train()
        return found

    # --- state

    def save_model(self, *args: Any, **kwargs: Any) -> None:
        """The Trainer's saving, of the trained state; checkpoints pass here before the optimizer is written."""
        self.sync()
        super().save_model(*args, **kwargs)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.step is not None and not self.args.save_only_model:
            folder = Path(self._get_output_dir(trial=trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            self.step.training.save_state(folder / _STATE)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """The Trainer's training; afterwards module and optimizer hold the trained state, and the plan's memory is free."""
        last = get_last_checkpoint(self.args.output_dir) if resume_from_checkpoint is True else resume_from_checkpoint
        self._resumed = Path(last) if last else None
        self._waiting.clear()
        try:
            done = super().train(resume_from_checkpoint, *args, **kwargs)
            self.sync()
        finally:
            if self.step is not None:
                self.step.close()
            self.step = None
        return done

    def _load_scaler(self, checkpoint: str | None) -> None:
        """Nothing: the loss scale is part of the step's state."""
        del checkpoint

    def sync(self) -> None:
        """Bring the trained state into module and optimizer."""
        if self.step is not None:
            self.step.sync()


def _loss_of(found: Any) -> Any:
    return found["loss"] if isinstance(found, Mapping) else found[0] if isinstance(found, tuple) else found


def _with_items(parts: Sequence[dict[str, torch.Tensor]], items: float) -> list[dict[str, torch.Tensor]]:
    """Micro-batches with the number of labels that their losses are divided by.

    The model divides each sum by the labels of the whole update, and the step takes the mean over micro-batches: it is
    told that many less. Such sums may be cut anywhere between examples, so that micro-batches of different sizes become
    equal ones.
    """
    sizes = [_rows(part) for part in parts]
    if len(set(sizes)) > 1:
        whole, size = _joined(parts, uneven=True), math.gcd(*sizes)
        parts = [
            {n: t[at : at + size] if t.dim() else t for n, t in whole.items()} for at in range(0, sum(sizes), size)
        ]
    return [{**part, _ITEMS: torch.tensor(items / len(parts))} for part in parts]


def _rows(part: Mapping[str, torch.Tensor]) -> int:
    return next((int(tensor.shape[0]) for tensor in part.values() if tensor.dim()), 1)


def _joined(parts: Sequence[dict[str, torch.Tensor]], uneven: bool = False) -> dict[str, torch.Tensor]:
    """Micro-batches one behind the other, of different numbers of examples only if `uneven`; scalars are alike.

    Raises UsageError for micro-batches that do not fit together.
    """
    first = parts[0]
    for name, value in first.items():
        shapes = [list(part[name].shape) if name in part else None for part in parts]
        fitting = [shape is not None and shape[uneven:] == list(value.shape)[uneven:] for shape in shapes]
        if not all(fitting):
            raise UsageError(
                f"micro-batches of one update differ in {name!r}: {', '.join(map(str, shapes))}; pad to one length, and "
                "set dataloader_drop_last where the last batch of an epoch is a short one"
            )
    return {n: torch.cat([part[n] for part in parts]) if t.dim() else t for n, t in first.items()}
