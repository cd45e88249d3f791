"""`compile_step`: from a module, its loss and its optimizer to a planned step, in one call."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from planc.compiler.budget import Budget, budget_text
from planc.compiler.options import CompileOptions
from planc.profiling.meter import Progress
from planc.torch.batch import batch_of
from planc.torch.plans import Maker
from planc.torch.step import CompiledStep
from planc.training.step_options import DynamicScale, StepOptions


def compile_step(
    model: torch.nn.Module,
    loss: Callable[..., Any] | None,
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
    example_batch: Any,
    *,
    budget: Budget = None,
    device: str = "auto",
    autocast: torch.dtype | None = None,
    accumulate: int = 1,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    loss_scale: float | DynamicScale | torch.amp.GradScaler = 1.0,
    ema_decay: float | None = None,
    new_shapes: bool = False,
    time_limit: float = 60.0,
    seed: int = 0,
    host_tier: str | None = None,
    on_progress: Progress = lambda *_: None,
) -> CompiledStep:
    """Export, profile, compile and load one training step of `model` under `optimizer`.

    `example_batch` is (inputs, targets) as for `export_training_step`; with `loss` None it is the module's inputs alone,
    whose output is the loss or holds it under the key `loss`. `budget` and `host_tier` are as for `planc.compile`. With
    `accumulate` the example is one micro-batch, and a step takes so many at once. `autocast` runs module and loss under
    `torch.autocast` in that type; parameters in half precision get float32 masters. `loss_scale` may be a GradScaler,
    whose settings are taken over. A batch of another shape needs a plan of its own: `add_shape`, or `new_shapes` to
    compile when one comes. Costs are cached by model, device and versions.

    Raises UsageError, ModelError, DeviceError, InfeasibleBudgetError or SolverTimeoutError.
    """
    options = StepOptions(
        clip_norm=clip_norm,
        clip_value=clip_value,
        accumulate=accumulate,
        loss_scale=_scale(loss_scale),
        ema_decay=ema_decay,
        seed=seed,
    )
    compiling = CompileOptions(budget_text(budget), time_limit_s=time_limit, seed=seed)
    maker = Maker(model, loss or _itself, optimizer, options, compiling, device, host_tier, autocast, on_progress)
    example = (example_batch, None) if loss is None and not _is_pair(example_batch) else example_batch
    step = CompiledStep(maker, new_shapes)
    step.add(batch_of(example))
    return step


def _is_pair(example: Any) -> bool:
    return isinstance(example, tuple) and len(example) == 2 and example[1] is None


def _itself(output: Any) -> Any:
    """The loss of a module that computes it itself."""
    if isinstance(output, Mapping):
        return {name: value for name, value in output.items() if isinstance(value, torch.Tensor)}
    return output


def _scale(given: float | DynamicScale | torch.amp.GradScaler) -> float | DynamicScale:
    if not isinstance(given, torch.amp.GradScaler):
        return given
    if not given.is_enabled():
        return 1.0
    return DynamicScale(
        given.get_scale(), given.get_growth_factor(), given.get_backoff_factor(), given.get_growth_interval()
    )
