"""`PlannedTrainer`: a Hugging Face Trainer whose training step is planned. Needs the transformers package."""

from typing import Any

import torch
from transformers import Trainer

from planc.errors import UsageError
from planc.torch.compile_step import compile_step
from planc.torch.step import CompiledStep
from planc.training.step_options import DynamicScale


class PlannedTrainer(Trainer):
    """A `transformers.Trainer` that trains under `budget`; everything else (logging, schedules, saving) is the Trainer's.

    The model must compute its own loss, and `compute_loss_func` is not used. `max_grad_norm`, `bf16` and `fp16` of the
    arguments are obeyed. Further keyword arguments of `compile_step` go into `planned`. Each shape of batch is compiled
    when it first comes: pad to few lengths.
    """

    def __init__(
        self, *args: Any, budget: str | int | float | None = None, planned: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        if self.args.gradient_accumulation_steps > 1:
            raise UsageError(
                "gradient_accumulation_steps > 1: use planned={'accumulate': N} and a larger batch instead"
            )
        if self.compute_loss_func is not None:
            raise UsageError("compute_loss_func is not used by PlannedTrainer: let the model compute its loss")
        self._budget, self._planned = budget, dict(planned or {})
        self.step: CompiledStep | None = None
        """The planned step, from the first batch on."""

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], *_: Any, **__: Any) -> torch.Tensor:
        """One planned step: forward, backward, clipping and update. The Trainer's own update finds no gradient."""
        model.train()
        batch = self._prepare_inputs(inputs)
        if self.step is None:
            self.step = self._compiled(model, batch)
        found = self.step(batch)
        return found["loss"] if isinstance(found, dict) else found[0] if isinstance(found, tuple) else found

    def _compiled(self, model: torch.nn.Module, batch: dict[str, Any]) -> CompiledStep:
        half = torch.bfloat16 if self.args.bf16 else torch.float16 if self.args.fp16 else None
        options = {
            "budget": self._budget,
            "autocast": half,
            "clip_norm": self.args.max_grad_norm or None,
            "loss_scale": DynamicScale() if self.args.fp16 else 1.0,
            "new_shapes": True,
            "seed": self.args.seed,
            **self._planned,
        }
        module = self.accelerator.unwrap_model(model)
        optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        return compile_step(module, None, optimizer, batch, **options)

    def _clip_grad_norm(self, model: torch.nn.Module) -> torch.Tensor | None:
        """The norm that the planned step found."""
        del model
        norm = self.step.gradient_norm if self.step is not None else None
        return None if norm is None else torch.tensor(norm)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """The Trainer's evaluation, of the trained state."""
        self.sync()
        return super().evaluate(*args, **kwargs)

    def save_model(self, *args: Any, **kwargs: Any) -> None:
        """The Trainer's saving, of the trained state; checkpoints pass here before the optimizer is written."""
        self.sync()
        super().save_model(*args, **kwargs)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """The Trainer's training; afterwards module and optimizer hold the trained state, and the plan's memory is free."""
        try:
            done = super().train(*args, **kwargs)
            self.sync()
        finally:
            if self.step is not None:
                self.step.close()
            self.step = None
        return done

    def sync(self) -> None:
        """Bring the trained state into module and optimizer."""
        if self.step is not None:
            self.step.sync()
