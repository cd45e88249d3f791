"""How an exact policy by a model of stages answers: with its optimum, unless everything can be kept."""

from collections.abc import Callable

from planc.errors import SolverTimeoutError
from planc.problem.problem import Problem
from planc.schedule.schedule import Schedule
from planc.schedule.solver import Candidate, SolveOptions
from planc_solvers.baselines.selection import first_fitting, kept, too_small
from planc_solvers.baselines.stage_model import Point, StageModel, require_scale, searched, size_of


def solved(
    name: str,
    problem: Problem,
    options: SolveOptions,
    most_rows: int,
    schedule: Callable[[StageModel, Point], Schedule],
    paging: bool = False,
) -> Candidate:
    """The `schedule` that the optimum of the model means, for the policy `name`.

    Raises InfeasibleBudgetError when the model is infeasible, SolverTimeoutError when HiGHS found nothing in time,
    PolicyScopeError for a problem whose model has more than `most_rows` rows.
    """
    keep = kept(name, problem)
    if keep is not None:
        return keep
    require_scale(name, problem, size_of, most_rows)
    built = StageModel(problem, problem.budget_bytes, paging=paging).build()
    answer = searched(built.model, options)
    if answer.infeasible:
        raise too_small(name, problem, None)
    if answer.point is None:
        raise SolverTimeoutError(f"{name} found no schedule within the time limit; allow more time or choose mip")
    return first_fitting(name, problem, [schedule(built, answer.point)])
