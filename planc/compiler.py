"""The compiler's whole way in one function: model → graph → costs → problem → schedule → plan, verified."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import onnx

from planc.costs.table import CostTable
from planc.errors import InfeasibleBudgetError, SolverTimeoutError
from planc.graph.graph import Graph, input_roles
from planc.importer.build import ImportedModel, import_for
from planc.plan import plan as p
from planc.problem.bounds import minimum_budget
from planc.problem.build import PlanningProblem, build_problem, least_arena_bytes
from planc.repair import Limits
from planc.runtime.ort_api import can_place_scratch
from planc.schedule.solver import Progress, Solution, load_solver
from planc.sessions import Found, search_plan
from planc.units import align_up, parse_size
from planc.verify.verify import require_valid

_ARENA_SLACK = 4096
"""Bytes added to the largest scratch of a layer: the arena rounds each allocation of a kernel up to 256 bytes."""


@dataclass(frozen=True)
class CompileOptions:
    """How to compile. `budget` is a size (`8GiB`, `60%` of the liveness peak, `min`); None takes 90 % of the memory
    that the cost table's device had free. `host_memory` is a size of the same kind, the most that the plan's host slab
    may take; None sets no limit."""

    budget: str | None = None
    solver: str = "mip"
    time_limit_s: float = 60.0
    seed: int = 0
    host_memory: str | None = None
    on_progress: Callable[[Progress], None] = field(default=lambda _: None)


@dataclass(frozen=True)
class Compilation:
    """A verified plan with what it was made from. `repairs` counts how often packing missed and the problem was
    narrowed."""

    plan: p.Plan
    planning: PlanningProblem
    solution: Solution
    repairs: int


def compile_model(
    model: str | Path | onnx.ModelProto | ImportedModel, costs: CostTable, options: CompileOptions | None = None
) -> Compilation:
    """Compile a training step with known costs.

    Raises ModelError, DeviceError (costs of another model), UsageError (unknown solver, unreadable budget),
    InfeasibleBudgetError with the smallest feasible budget, SolverTimeoutError.
    """
    chosen = options or CompileOptions()
    imported = model if isinstance(model, ImportedModel) else import_for(model, costs.model_hash)
    plannings = [_on_host(planning, chosen.host_memory) for planning in planning_problems(imported.graph, costs)]
    budget = min(budget_bytes(chosen.budget, planning, costs) for planning in plannings)
    started = time.perf_counter()
    planning, found = _fastest(imported, costs, plannings, budget, chosen)
    solve_s = time.perf_counter() - started
    plan = assemble_plan(imported, costs, planning, found, budget, _scratch_bytes(planning), solve_s, chosen)
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
        scratch = _scratch_bytes(planning)
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


def _on_host(planning: PlanningProblem, host_memory: str | None) -> PlanningProblem:
    """`planning` with the host limit meant by `host_memory`. Raises UsageError when it cannot be read."""
    if host_memory is None:
        return planning
    limit = parse_size(host_memory, planning.liveness_peak_bytes)
    return replace(planning, problem=replace(planning.problem, host_budget_bytes=limit))


def planning_problems(graph: Graph, costs: CostTable) -> tuple[PlanningProblem, ...]:
    """The problems of which `compile_model` takes the one with the fastest plan.

    Where scratch lies in an arena beside the slab and layers have leaner forms, a second one has the smallest arena.
    """
    usual = planning_problem(graph, costs)
    if usual.layer_scratch or not any(cost.alternatives for cost in costs.unique):
        return (usual,)
    lean = build_problem(graph, costs, arena_bytes=least_arena_bytes(graph, costs))
    return (usual, lean) if lean.scratch_bytes < usual.scratch_bytes else (usual,)


def planning_problem(graph: Graph, costs: CostTable) -> PlanningProblem:
    """The first problem that `compile_model` solves: with scratch in the slab where the device's runtime can place it."""
    return build_problem(graph, costs, scratch_in_slab=costs.device.kind == "cpu" and can_place_scratch())


def _scratch_bytes(planning: PlanningProblem) -> int:
    """Bytes of the arena beside the slab."""
    if planning.layer_scratch:
        return 0
    return align_up(planning.scratch_bytes + _ARENA_SLACK, _ARENA_SLACK)


def budget_bytes(text: str | None, planning: PlanningProblem, costs: CostTable) -> int:
    """Bytes meant by a budget as `CompileOptions` takes it. Raises UsageError when it cannot be read."""
    if text is None:
        return costs.device.memory_bytes * 9 // 10
    if text == "min":
        return minimum_budget(planning.problem)[0] + _scratch_bytes(planning) + costs.device.session_bytes
    return parse_size(text, planning.liveness_peak_bytes)


def assemble_plan(
    imported: ImportedModel,
    costs: CostTable,
    planning: PlanningProblem,
    found: Found,
    budget: int,
    scratch: int,
    solve_s: float,
    options: CompileOptions,
) -> p.Plan:
    need, layer = minimum_budget(planning.problem)
    solution, lowered = found.solution, found.lowered
    return p.Plan(
        planc=version("planc"),
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        model=p.ModelInfo(
            hash=imported.graph.content_hash,
            file=imported.file.path.name if imported.file.path else "",
            layers=len(imported.graph.layers),
            operators=len(imported.graph.ops),
        ),
        costs=p.CostInfo(
            table=costs.identity,
            device=costs.device.name,
            kind=costs.device.kind,
            estimated=costs.estimated,
            versions=costs.device.versions,
        ),
        certificate=p.Certificate(
            solver=options.solver,
            status=solution.status,
            lower_bound_ns=solution.lower_bound_ns,
            bound_scope=solution.bound_scope,
            gap=solution.gap,
            seed=options.seed,
            time_limit_s=options.time_limit_s,
            solve_s=solve_s,
        ),
        memory=p.Memory(
            budget_bytes=budget,
            slab_bytes=lowered.slab_bytes,
            scratch_bytes=scratch,
            host_bytes=lowered.host_bytes,
            liveness_peak_bytes=planning.liveness_peak_bytes,
            minimum_budget_bytes=need + scratch + costs.device.session_bytes,
            minimum_layer=layer,
            load_bytes=lowered.load_bytes,
            slab_scratch_bytes=max((region.bytes for region in lowered.scratch), default=0),
            session_bytes=found.session_bytes,
            host_limit_bytes=planning.problem.host_budget_bytes,
        ),
        prediction=p.Prediction(
            step_ns=solution.timeline.step_ns,
            unconstrained_step_ns=planning.problem.base_duration_ns,
            stall_ns=solution.timeline.stall_ns,
            runs=solution.timeline.steps,
            copies=solution.timeline.copies,
        ),
        runs=lowered.runs,
        segments=lowered.segments,
        copies=lowered.copies,
        residencies=lowered.residencies,
        host_slots=lowered.host_slots,
        scratch=lowered.scratch,
        layers=tuple(p.LayerInfo(x.name, x.kind, x.phase, x.stop - x.start) for x in imported.graph.layers),
        inputs=input_roles(imported.graph),
    )
