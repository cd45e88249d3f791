"""checkmate and checkmate-lp: rematerialisation by integer programming, and by rounding its relaxation (Jain et al.,
2020).

Jain, Jain, Nrusimha, Gholami, Abbeel, Gonzalez, Keutzer and Stoica, Checkmate: Breaking the Memory Wall with Optimal
Tensor Rematerialization, MLSys 2020. `checkmate` solves the model (`stage_model`) by HiGHS. `checkmate-lp` solves its
relaxation for 90 % of the budget, as the paper does, keeps between stages what is there by more than half, and runs in
each stage what that asks for (two-phase rounding); where the result is over the budget, the relaxation is solved for
less.
"""

from collections.abc import Iterator

from planc.errors import SolverTimeoutError
from planc.problem.problem import Problem
from planc.schedule.schedule import Schedule
from planc.schedule.solver import Candidate, SolveOptions
from planc_solvers.baselines.exact import solved
from planc_solvers.baselines.selection import first_fitting, kept
from planc_solvers.baselines.stage_model import Point, StageModel, require_scale, size_of
from planc_solvers.baselines.stages import needed_steps
from planc_solvers.bounds.linear_model import Effort

MOST_ROWS = 300_000
"""HiGHS takes minutes for the first relaxation of larger models on two cores, and its time limit does not reach into their
presolve: twice as many rows took minutes for 2 s."""

LP_SHARES = (1.0, 0.9, 0.8, 0.7)
"""Parts of the budget for which the relaxation is solved and rounded: the paper's 0.9, and others that may do."""

_THRESHOLD = 0.5


class Checkmate:
    """The exact model, within the time limit."""

    def solve(self, problem: Problem, options: SolveOptions) -> Candidate:
        """Raises as `solved`."""
        return solved("checkmate", problem, options, MOST_ROWS, _schedule)


def _schedule(built: StageModel, point: Point) -> Schedule:
    steps = [task for stage in built.sequence(point) for task in stage]
    return Schedule(tuple(needed_steps(built.problem, steps)))


class CheckmateLp:
    """The relaxation, rounded."""

    def solve(self, problem: Problem, options: SolveOptions) -> Candidate:
        """Raises InfeasibleBudgetError when no rounding fits, SolverTimeoutError when none was found in time,
        PolicyScopeError for a problem that is too large."""
        keep = kept("checkmate-lp", problem)
        if keep is not None:
            return keep
        require_scale("checkmate-lp", problem, size_of, MOST_ROWS)
        return first_fitting("checkmate-lp", problem, _roundings(problem, options))


def _roundings(problem: Problem, options: SolveOptions) -> Iterator[Schedule]:
    ends = options.clock.now() + options.time_limit_s
    for done, share in enumerate(LP_SHARES):
        left = ends - options.clock.now()
        if left <= 0:
            raise SolverTimeoutError("checkmate-lp found no rounding that fits in time; allow more time or choose mip")
        built = StageModel(problem, int(problem.budget_bytes * share)).build()
        effort = Effort(left / (len(LP_SHARES) - done), clock=options.clock)
        answer = built.model.solve(effort, relaxed=True, staged=True)
        if answer.point is not None:
            yield Schedule(tuple(needed_steps(problem, rounded(built, answer.point))))


def rounded(built: StageModel, point: Point) -> list[int]:
    """Keep between stages what is there by more than a threshold; run in each stage what it and the next one ask
    for."""
    problem = built.problem
    kept: list[set[int]] = [set() for _ in range(len(problem.tasks) + 1)]
    for (stage, value), variable in built.there.items():
        if point[variable] > _THRESHOLD:
            kept[stage].add(value)
    steps: list[int] = []
    there: set[int] = set()
    for stage in range(len(problem.tasks)):
        tasks = _stage_tasks(built, stage, there, kept[stage + 1])
        steps += tasks
        made = {v for t in tasks for v in problem.tasks[t].writes}
        there = {v for v in there | made if v in kept[stage + 1] or not _remade(built, v, stage + 1)}
    return steps


def _remade(built: StageModel, value: int, stage: int) -> bool:
    """Whether the value can still be made again in the stage."""
    return (stage, built.problem.producer[value] or 0) in built.runs


def _stage_tasks(built: StageModel, stage: int, there: set[int], wanted: set[int]) -> list[int]:
    """Tasks, in order, that bring about task `stage` and the `wanted` values from what is there."""
    problem, found = built.problem, {stage}
    open_ = [stage]
    for value in wanted - there:
        producer = problem.producer[value]
        if producer is not None and producer not in found and (stage, producer) in built.runs:
            found.add(producer)
            open_.append(producer)
    while open_:
        for value in problem.accesses[open_.pop()]:
            producer = problem.producer[value]
            if producer is None or value in there or producer in found:
                continue
            found.add(producer)
            open_.append(producer)
    return sorted(found)
