"""The smallest budget for which a plan is known: what `min` means, and what an infeasible budget is told.

No schedule goes below the largest working set of a layer, but a schedule that does may not exist, or not pack. So the
least plan is made, not computed: schedules of smaller and smaller budgets are packed as they are, and the lowest packing
counts. All of it is counted work with one seed, so that the plan is found again whenever that budget is tried.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from planc.clock import WorkClock
from planc.compiler.trial import Trial, leanest_first, lowerings
from planc.errors import InfeasibleBudgetError, PolicyScopeError, SolverTimeoutError
from planc.graph.graph import Graph
from planc.planning.build import PlanningProblem
from planc.problem.bounds import minimum_budget
from planc.problem.problem import Problem
from planc.schedule.residency import memory_profile
from planc.schedule.schedule import Schedule
from planc.schedule.solver import Solution, SolveOptions, Solver, solve


@dataclass(frozen=True, slots=True)
class LeastSettings:
    """How long the least plan is looked for."""

    solve_s: float = 0.15
    """Work counted for one schedule: more lowers the budget a little, but whoever gives too small a budget waits for it."""
    schedules: int = 8
    """Schedules tried between the largest working set and the peak of keeping everything."""
    close: float = 0.01
    """Part of that peak by which budgets that can and cannot be met may differ in the end."""
    steps: int = 1_000
    """Executions that are lowered for one schedule, all variants together, before no further variant is: half a second."""


SETTINGS = LeastSettings()


def least_trial(graph: Graph, planning: PlanningProblem, solver: Solver) -> Trial | None:
    """The lowest packing found of any schedule of `solver`; None where it finds no schedule at all."""
    packed = (_packed(graph, planning, solution) for solution in _schedules(planning.problem, solver))
    return min(packed, key=_height, default=None)


def _packed(graph: Graph, planning: PlanningProblem, solution: Solution) -> Trial:
    """The lowest of the greedy packings of the schedule's variants, or the first that is as low as its load: no variant
    has a lower one."""
    trials, steps = list[Trial](), 0
    for variant in leanest_first(planning.problem, solution):
        for lowering in lowerings(graph, planning, variant):
            trials.append(Trial(variant, lowering, lowering.pack(None, 0.0)))
            steps += len(variant.schedule.steps)
            if trials[-1].packing.height <= trials[-1].packing.lower_bound or steps >= SETTINGS.steps:
                return min(trials, key=_height)
    return min(trials, key=_height)


def _height(trial: Trial) -> int:
    return trial.packing.height


def _schedules(problem: Problem, solver: Solver) -> Iterator[Solution]:
    """Schedules within the smallest budget that can be met, or within budgets ever closer to it."""
    floor = minimum_budget(problem)[0]
    ceiling = max(floor, *memory_profile(problem, Schedule(tuple(range(len(problem.tasks))))))
    cannot, can, budget = floor - 1, ceiling, floor
    for _ in range(SETTINGS.schedules):
        found, need = _solved(problem, solver, budget)
        if found is not None:
            yield found
            can = min(budget, found.peak_bytes)
        else:
            cannot = budget
        if can - cannot <= max(1, int(SETTINGS.close * ceiling)):
            break
        # What a policy says that it needs is tried next; else the middle.
        budget = need if cannot < need < can else (cannot + can) // 2
    if can == ceiling:
        yield from filter(None, [_solved(problem, solver, ceiling)[0]])


def _solved(problem: Problem, solver: Solver, budget: int) -> tuple[Solution | None, int]:
    """A schedule within `budget` bytes, or what the policy says that it needs, 0 where it does not."""
    options = SolveOptions(SETTINGS.solve_s, workers=1, prove=False, clock=WorkClock(), one_form=True)
    try:
        return solve(solver, replace(problem, budget_bytes=budget), options), 0
    except InfeasibleBudgetError as error:
        return None, error.minimum_budget_bytes
    except (SolverTimeoutError, PolicyScopeError):
        return None, 0
