"""`compile_step`: from a module, its loss and its optimizer to a planned step, in one call."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from planc.compiler.budget import Budget, budget_text
from planc.compiler.options import CompileOptions
from planc.profiling.meter import Progress
from planc.runtime.ranks.group import place
from planc.torch.batch import batch_of
from planc.torch.plans import Maker
from planc.torch.shared import Shared
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
    shared: Shared | None = None,
    shard: bool = False,
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
    compile when one comes. Steps over the same parameters, such as a generator's and a discriminator's, are given the same
    `shared`. Costs and plans are cached by model, options, device and versions: the second call with the same module,
    shapes, optimizer and budget profiles and solves nothing. `on_progress` hears of stages and of profiling:
    `planc.torch.show_progress` prints them.

    In a process that torchrun started, the step is one of several ranks' (docs/distributed.md): the first of them measures
    and compiles, `example_batch` is one rank's, and modules must begin with the same state everywhere. With `shard` the
    optimizer's state is divided among the ranks: every rank then compiles a plan of its own, and `sync` brings the state
    of the parameters that it owns into its optimizer.

    Raises UsageError, ModelError, DeviceError, InfeasibleBudgetError or SolverTimeoutError.
    """
    found = place()
    options = StepOptions(
        clip_norm=clip_norm,
        clip_value=clip_value,
        accumulate=accumulate,
        loss_scale=loss_scale_of(loss_scale),
        ema_decay=ema_decay,
        seed=seed,
        ranks=1 if found is None else found.size,
        sharded=shard and found is not None,
        rank=0 if found is None or not shard else found.rank,
    )
    compiling = CompileOptions(budget_text(budget), time_limit_s=time_limit, seed=seed)
    maker = Maker(
        model,
        loss or _itself,
        optimizer,
        options,
        compiling,
        device,
        host_tier,
        autocast,
        on_progress,
        shared is not None,
    )
    example = (example_batch, None) if loss is None and not _is_pair(example_batch) else example_batch
    step = CompiledStep(maker, new_shapes, shared)
    step.add(batch_of(example))
    return step


def _is_pair(example: Any) -> bool:
    return isinstance(example, tuple) and len(example) == 2 and example[1] is None


def _itself(output: Any) -> Any:
    """The loss of a module that computes it itself."""
    if isinstance(output, Mapping):
        return {name: value for name, value in output.items() if isinstance(value, torch.Tensor)}
    return output


def loss_scale_of(given: float | DynamicScale | torch.amp.GradScaler) -> float | DynamicScale:
    """What a GradScaler does, as a step option."""
    if not isinstance(given, torch.amp.GradScaler):
        return given
    if not given.is_enabled():
        return 1.0
    return DynamicScale(
        given.get_scale(), given.get_growth_factor(), given.get_backoff_factor(), given.get_growth_interval()
    )
