"""poet: paging and rematerialisation in one mixed-integer program (Patil et al., 2022).

Patil, Jain, Dutta, Stoica and Gonzalez, POET: Training Neural Networks on Tiny Devices with Integrated
Rematerialization and Paging, ICML 2022. Checkmate's model with In, Out and a host copy. Its objective is energy; with
the durations of a problem, a recomputation costs its time and a copy next to nothing, because POET gives copies no
time: what its plans wait for them shows in the simulation. One thing is mended, without which its plans would not fit:
a fetched value counts as held in the stage in which it is fetched.
"""

from planc.enums import Direction
from planc.errors import SolverTimeoutError
from planc.problem.problem import Problem
from planc.schedule.residency import memory_profile
from planc.schedule.schedule import Schedule, Transfer
from planc.schedule.solver import Candidate, SolveOptions
from planc_solvers.baselines.selection import first_fitting, too_small
from planc_solvers.baselines.stage_model import Point, StageModel, require_scale, searched, size_of
from planc_solvers.baselines.transfers import engine_order

MOST_ROWS = 150_000
"""Half of Checkmate's: paging doubles the model."""


class Poet:
    """The exact model with paging, within the time limit."""

    def solve(self, problem: Problem, options: SolveOptions) -> Candidate:
        """Raises InfeasibleBudgetError when the model is infeasible, SolverTimeoutError when HiGHS found nothing in
        time, PolicyScopeError for a problem that is too large."""
        keep = Schedule(tuple(range(len(problem.tasks))))
        if max(memory_profile(problem, keep)) <= problem.budget_bytes:
            return first_fitting("poet", problem, [keep])
        require_scale("poet", problem, size_of, MOST_ROWS)
        built = StageModel(problem, problem.budget_bytes, paging=True).build()
        answer = searched(built.model, options)
        if answer.infeasible:
            raise too_small("poet", problem, None)
        if answer.point is None:
            raise SolverTimeoutError("poet found no schedule within the time limit; allow more time or choose mip")
        return first_fitting("poet", problem, [_schedule(built, answer.point)])


def _schedule(built: StageModel, point: Point) -> Schedule:
    """Stages end to end; a fetch runs before its stage's first reader, a copy out during its stage."""
    problem, stages = built.problem, built.sequence(point)
    begins, steps = [0], list[int]()
    for tasks in stages:
        steps += tasks
        begins.append(len(steps))
    copies = []
    for (stage, value), variable in built.fetched.items():
        if point[variable] > 0.5:
            span = range(begins[stage], begins[stage + 1])
            need = next((p for p in span if value in problem.accesses[steps[p]]), begins[stage + 1])
            copies.append(Transfer(value, Direction.IN, begins[stage], need))
    for (stage, value), variable in built.sent.items():
        if point[variable] > 0.5:
            copies.append(Transfer(value, Direction.OUT, begins[stage], begins[stage + 1]))
    return Schedule(tuple(steps), engine_order(copies))
