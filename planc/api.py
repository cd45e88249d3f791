"""The Python interface: the commands' names and meanings, without their printing."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx

from planc.compiler.budget import Budget, budget_text
from planc.compiler.estimate import Estimate, estimate_step
from planc.compiler.knee import compile_within
from planc.compiler.options import CompileOptions
from planc.compiler.request import CompileRequest
from planc.costs.table import CostTable
from planc.importer.import_model import import_for
from planc.plan.files import read_plan
from planc.plan.plan import Plan
from planc.runtime.step import TrainingStep, load
from planc.schedule.solver import Progress
from planc.verifier.verify import verify as verify_graph
from planc.verifier.violation import Violation

__all__ = ["Estimate", "TrainingStep", "compile", "estimate", "load", "verify"]


def compile(
    model: str | Path | onnx.ModelProto,
    *,
    budget: Budget = None,
    device: str = "auto",
    costs: str | Path | CostTable | None = None,
    solver: str = "mip",
    time_limit: float = 60.0,
    seed: int = 0,
    host_memory: str | None = None,
    fuse: bool = True,
    gap: float | None = None,
    deterministic: bool = False,
    host_tier: str | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Plan:
    """Compile a training step into a verified plan.

    `budget` is a size such as `8GiB`, `60%` of the liveness peak, `min`, `max` (all that the device has free) or `auto`
    (the knee of step time over memory, `planc.compiler.knee`); a float is a share of the liveness peak, an int a number
    of bytes; None takes 90 % of the device's free memory. `on_progress` hears of the solver's best plan and bound.
    Costs are measured on `device` on first use and cached unless given. `time_limit` is in seconds. `host_memory` is
    the most that swapped values may take on the host; None sets no limit. With `fuse`, stretches of element-wise
    operators become one kernel where the device has such. `host_tier` is where a plan for the CPU swaps to: `file` (the
    default), `file:PATH`, or `ram`, which stands for a card's host and saves no memory here.
    A solve ends at that `gap` to its bound, a fraction, where one is given. With `deterministic` work is counted instead of
    seconds, and the same input gives the same plan.
    Raises ModelError, UsageError, DeviceError, InfeasibleBudgetError or SolverTimeoutError.
    """
    job = CompileRequest(model, device, costs, fuse, host_tier=host_tier).resolve()
    options = CompileOptions(
        budget_text(budget), solver, time_limit, seed, host_memory, gap=gap, deterministic=deterministic
    )
    return compile_within(job, options if on_progress is None else replace(options, on_progress=on_progress)).plan


def estimate(
    model: str | Path | onnx.ModelProto, *, device: str = "auto", costs: str | Path | CostTable | None = None
) -> Estimate:
    """What one step needs, before anything is measured: see `planc.compiler.estimate`. Raises ModelError, UsageError."""
    return estimate_step(model, device, costs)


def verify(plan: str | Path | Plan, model: str | Path | onnx.ModelProto) -> tuple[Violation, ...]:
    """Every violation of a plan against its model; empty when it is valid. Raises PlanError or ModelError."""
    loaded = plan if isinstance(plan, Plan) else read_plan(Path(plan))
    return verify_graph(import_for(model, loaded.model.hash).graph, loaded)
