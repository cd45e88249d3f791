"""planc's own planner against the published policies: never slower, and never without a plan where one of them has one."""

from dataclasses import replace

import pytest
from support.labelled import labelled
from support.problems import with_alternatives

from planc.errors import InfeasibleBudgetError, PolicyScopeError, SolverTimeoutError
from planc.problem.bounds import minimum_budget
from planc.problem.problem import Problem
from planc.schedule.residency import memory_profile
from planc.schedule.schedule import Schedule
from planc.schedule.solver import SolveOptions, load_solver, solve, solver_names


def _step_ns(name: str, problem: Problem) -> int | None:
    try:
        return solve(load_solver(name), problem, SolveOptions(time_limit_s=0.3, workers=1)).timeline.step_ns
    except (InfeasibleBudgetError, SolverTimeoutError, PolicyScopeError):
        return None


@pytest.mark.parametrize("share", [0.05, 0.3, 0.7])
@pytest.mark.parametrize("seed", range(4))
def test_mip_is_never_slower_than_a_policy(seed: int, share: float) -> None:
    problem = with_alternatives(labelled(seed, 16), seed)
    least = minimum_budget(problem)[0]
    most = max(memory_profile(problem, Schedule(tuple(range(16)))))
    problem = replace(problem, budget_bytes=least + int((most - least) * share))
    ours = _step_ns("mip", problem)
    for name in set(solver_names()) - {"mip"}:
        theirs = _step_ns(name, problem)
        assert theirs is None or (ours is not None and ours <= theirs), name
