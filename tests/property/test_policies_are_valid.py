"""Every policy on random graphs: a schedule that the door lets through, or a refusal in the policy's own words."""

from dataclasses import replace

import pytest
from support.labelled import labelled
from support.problems import random_dag, random_problem, with_alternatives

from planc.errors import InfeasibleBudgetError, PolicyScopeError, SolverTimeoutError
from planc.problem.bounds import minimum_budget
from planc.problem.problem import Problem
from planc.schedule.residency import memory_profile
from planc.schedule.schedule import Schedule
from planc.schedule.solver import SolveOptions, load_solver, solve, solver_names

POLICIES = tuple(name for name in solver_names() if name != "mip")
EXACT = ("checkmate", "checkmate-lp", "moccasin", "poet", "offmate")
BUDGETS = (1.0, 0.7, 0.4, 0.1)
"""How far between the smallest budget and the peak of keeping everything."""


def _at(problem: Problem, share: float) -> Problem:
    least = minimum_budget(problem)[0]
    most = max(memory_profile(problem, Schedule(tuple(range(len(problem.tasks))))))
    return replace(problem, budget_bytes=least + int((most - least) * share))


def _check(name: str, problem: Problem) -> bool:
    """Whether the policy solves the problem; a refusal names the policy and, where it is one of memory, a need."""
    try:
        solution = solve(load_solver(name), problem, SolveOptions(time_limit_s=5, workers=1))
    except (InfeasibleBudgetError, SolverTimeoutError, PolicyScopeError) as error:
        refusal = error
    else:
        assert solution.peak_bytes <= problem.budget_bytes
        return True
    assert name in str(refusal)
    assert not isinstance(refusal, InfeasibleBudgetError) or refusal.minimum_budget_bytes > 0
    return False


@pytest.mark.parametrize("name", POLICIES)
def test_any_policy_answers_on_any_graph(name: str) -> None:
    solved = 0
    for seed in range(2 if name in EXACT else 5):
        size = 8 if name in EXACT else 14
        graphs = (random_problem(seed, size), random_dag(seed, size), labelled(seed, size))
        for problem in (*graphs, with_alternatives(labelled(seed + 100, size), seed)):
            solved += sum(_check(name, _at(problem, share)) for share in BUDGETS)
    assert solved > 0 or name == "caffe"
