"""The compiler's whole way in one function: model → graph → costs → problem → schedule → plan, verified."""

import time
from collections.abc import Sequence
from pathlib import Path

import onnx

from planc.compile.assemble import assemble_plan
from planc.compile.budget import (
    arena_bytes_of,
    budget_bytes,
    on_host,
    planning_problems,
)
from planc.compile.fit import Limits
from planc.compile.options import Compilation, CompileOptions
from planc.compile.sessions import Found, search_plan
from planc.costs.table import CostTable
from planc.errors import InfeasibleBudgetError, SolverTimeoutError
from planc.importer.import_model import ImportedModel, import_for
from planc.planning.build import PlanningProblem
from planc.schedule.solver import load_solver
from planc.verify.verify import require_valid


def compile_model(
    model: str | Path | onnx.ModelProto | ImportedModel, costs: CostTable, options: CompileOptions | None = None
) -> Compilation:
    """Compile a training step with known costs.

    Raises ModelError, DeviceError (costs of another model), UsageError (unknown solver, unreadable budget),
    InfeasibleBudgetError with the smallest feasible budget, SolverTimeoutError.
    """
    chosen = options or CompileOptions()
    imported = model if isinstance(model, ImportedModel) else import_for(model, costs.model_hash)
    plannings = [on_host(planning, chosen.host_memory) for planning in planning_problems(imported.graph, costs)]
    budget = min(budget_bytes(chosen.budget, planning, costs) for planning in plannings)
    started = time.perf_counter()
    planning, found = _fastest(imported, costs, plannings, budget, chosen)
    solve_s = time.perf_counter() - started
    plan = assemble_plan(imported, costs, planning, found, budget, arena_bytes_of(planning), solve_s, chosen)
    require_valid(imported.graph, plan, "the compiled plan")
    return Compilation(plan, planning, found.solution, found.repairs)


def _fastest(
    imported: ImportedModel,
    costs: CostTable,
    plannings: Sequence[PlanningProblem],
    budget: int,
    options: CompileOptions,
) -> tuple[PlanningProblem, Found]:
    """The problem with the fastest plan, and the plan. The problems share the time limit.

    Raises what the search raises for each of them: for the one that needs the least, where budgets are too small.
    """
    solver, share = load_solver(options.solver), options.time_limit_s / len(plannings)
    best: tuple[PlanningProblem, Found] | None = None
    failed: list[InfeasibleBudgetError | SolverTimeoutError] = []
    for planning in plannings:
        scratch = arena_bytes_of(planning)
        limits = Limits(budget - scratch, scratch, share, options.seed, options.on_progress)
        try:
            found = search_plan(imported, planning, solver, limits, costs.device.session_bytes)
        except (InfeasibleBudgetError, SolverTimeoutError) as error:
            failed.append(error)
            continue
        if best is None or found.solution.timeline.step_ns < best[1].solution.timeline.step_ns:
            best = planning, found
    if best is not None:
        return best
    too_small = [error for error in failed if isinstance(error, InfeasibleBudgetError)]
    raise min(too_small, key=lambda error: error.minimum_budget_bytes) if len(too_small) == len(failed) else failed[0]
