"""The Python interface: the commands' names and meanings, without their printing."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import onnx
from onnx import helper

from planc.compiler.budget import Budget, budget_text
from planc.compiler.estimate import Estimate, estimate_step
from planc.compiler.options import CompileOptions
from planc.compiler.request import CompileRequest
from planc.compiler.within import compile_within
from planc.costs.table import CostTable
from planc.importer.import_model import import_for
from planc.importer.load import read_model, skeleton
from planc.plan.plan import Plan
from planc.profiling.target import target_of
from planc.report.comparison import Comparison, known_solvers
from planc.report.comparison import compare as compare_job
from planc.report.trials import Effort
from planc.runtime.step import TrainingStep, load
from planc.schedule.solver import Progress
from planc.training.emit.widen import widen as widen_graph
from planc.verifier.verify import verify as verify_graph
from planc.verifier.violation import Violation

__all__ = ["Comparison", "Estimate", "TrainingStep", "compare", "compile", "estimate", "load", "verify", "widen"]


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
    world_size: int | None = None,
    what_if: bool = True,
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
    `world_size` is the number of ranks that the model must be for; None takes what it says.
    A solve ends at that `gap` to its bound, a fraction, where one is given. With `deterministic` work is counted instead of
    seconds, and the same input gives the same plan. With `what_if` the last tenth of the limit goes to budgets a tenth
    smaller and larger, which `Plan.curve` then has.
    Raises ModelError, UsageError, DeviceError, InfeasibleBudgetError or SolverTimeoutError.
    """
    job = CompileRequest(model, device, costs, fuse, host_tier=host_tier, world_size=world_size).resolve()
    options = CompileOptions(
        budget_text(budget),
        solver,
        time_limit,
        seed,
        host_memory,
        gap=gap,
        deterministic=deterministic,
        what_if=what_if,
    )
    return compile_within(job, options if on_progress is None else replace(options, on_progress=on_progress)).plan


def estimate(
    model: str | Path | onnx.ModelProto, *, device: str = "auto", costs: str | Path | CostTable | None = None
) -> Estimate:
    """What one step needs, before anything is measured: see `planc.compiler.estimate`. Raises ModelError, UsageError."""
    return estimate_step(model, device, costs)


def compare(
    model: str | Path | onnx.ModelProto,
    *,
    budgets: Sequence[Budget] | None = None,
    solvers: Sequence[str] = ("mip",),
    device: str = "auto",
    costs: str | Path | CostTable | None = None,
    time_limit: float = 60.0,
    seed: int = 0,
    fuse: bool = True,
    jobs: int = 1,
    run_steps: int = 0,
    remember: bool = True,
    on_progress: Callable[[int, int, str], None] = lambda *_: None,
) -> Comparison:
    """A row for each solver within each budget; the same as `planc compare`.

    Budgets and costs are as for `compile`, `auto` excepted. Without budgets there are five, evenly spaced from what the
    step needs unplanned down to the smallest feasible. Each solve may take `time_limit` seconds; `jobs` of them run
    at a time, each in a process of its own. With `run_steps` each plan is run too, beside the unplanned graph. What an
    earlier comparison found is used where `remember` allows. A budget without a plan is a row that says why;
    `Comparison.recommended` is the knee of the curve.
    Raises ModelError, UsageError or DeviceError.
    """
    names = known_solvers(solvers)
    texts = None if budgets is None else [text for b in budgets if (text := budget_text(b)) is not None]
    job = CompileRequest(model, device, costs, fuse).resolve()
    return compare_job(job, texts, names, Effort(time_limit, seed, jobs, run_steps, remember), on_progress)


def verify(plan: str | Path | Plan, model: str | Path | onnx.ModelProto) -> tuple[Violation, ...]:
    """Every violation of a plan against its model; empty when it is valid. Raises PlanError or ModelError."""
    loaded = plan if isinstance(plan, Plan) else Plan.load(plan)
    return verify_graph(import_for(model, loaded.model.hash).graph, loaded)


def widen(model: str | Path | onnx.ModelProto, *, device: str = "auto") -> onnx.ModelProto:
    """A copy of a training graph that computes in float32 where `device` has no kernel in half precision.

    ONNX Runtime does the same to every session, between casts that no plan knows of, and leaves out those between two
    nodes of a session: rounding then depends on where sessions end. Here the casts are nodes of the graph, and every
    tensor keeps its type. Raises ModelError or UsageError.
    """
    file = read_model(model, whole=True)
    made = onnx.ModelProto()
    made.CopyFrom(file.proto)
    graph = made.graph
    known = {i.name for i in (*graph.input, *graph.value_info, *graph.output)}
    types = skeleton(file).types
    inner = {name for node in graph.node for name in node.output} - known
    graph.value_info.extend(helper.make_tensor_value_info(n, *types[n]) for n in sorted(inner) if n in types)
    return widen_graph(made, target_of(device).kind.forms)
