"""The order of independent tasks as a decision, against brute force over every topological order."""

import random
from dataclasses import replace

import pytest
from support.oracle import best_recompute_only
from support.problems import random_dag, random_problem

from planc.enums import Status
from planc.errors import InfeasibleBudgetError, SolverTimeoutError
from planc.problem.bounds import minimum_budget
from planc.problem.problem import Problem, Task, Value
from planc.schedule.residency import memory_profile, residencies
from planc.schedule.schedule import Schedule
from planc.schedule.solver import Solution, SolveOptions, solve
from planc_solvers import mip
from planc_solvers.mip import EVERY, IN_ORDER, IN_PLANS_ORDER, Mip
from planc_solvers.search.task_order import better_order, first_executions, permuted, renumbered


def _peak(problem: Problem, order: tuple[int, ...] | None = None) -> int:
    return max(memory_profile(problem, Schedule(order or tuple(range(len(problem.tasks))))))


def _tight(problem: Problem, seed: int) -> Problem:
    least, peak = minimum_budget(problem)[0], _peak(problem)
    return replace(problem, budget_bytes=random.Random(seed).randint(least, max(least, peak - 1)))


def branches(count: int) -> Problem:
    """Each branch makes a large value and reduces it to a small one; the given order makes all the large ones first."""
    values = [Value(f"v{i}", 10 if i < count else 1) for i in range(2 * count + 1)]
    large = [Task(f"large{i}", 5, (), (i,), 10, recomputable=True) for i in range(count)]
    small = [Task(f"small{i}", 5, (i,), (count + i,), 1, recomputable=True) for i in range(count)]
    total = Task("total", 5, tuple(range(count, 2 * count)), (2 * count,), 1)
    return Problem((*large, *small, total), tuple(values), 10 + 1 + count)


def test_branches_run_one_after_the_other_where_all_at_once_do_not_fit() -> None:
    problem = branches(8)
    assert _peak(problem) > 4 * problem.budget_bytes
    solution = solve(Mip(), problem, SolveOptions(time_limit_s=1, workers=1))
    assert solution.timeline.step_ns == problem.base_duration_ns
    assert (solution.status, solution.bound_scope) == (Status.OPTIMAL, EVERY)


@pytest.mark.parametrize("seed", range(40))
def test_an_order_keeps_every_dependency_and_state_version(seed: int) -> None:
    problem = replace(random_problem(seed, tasks=14), budget_bytes=1)
    problem = replace(problem, budget_bytes=int(0.8 * _peak(problem)))
    order = better_order(problem, SolveOptions(2.0, seed))
    if order is not None:
        assert sorted(order) == list(range(14))
        residencies(problem, Schedule(order))
        assert sum(max(0, m - problem.budget_bytes) for m in memory_profile(problem, Schedule(order))) < sum(
            max(0, m - problem.budget_bytes) for m in memory_profile(problem, Schedule(tuple(range(14))))
        )


def test_orders_are_found_for_many_random_problems() -> None:
    tight = [replace(p, budget_bytes=int(0.9 * _peak(p))) for p in map(random_problem, range(40))]
    assert sum(better_order(problem, SolveOptions(2.0)) is not None for problem in tight) > 10


def _solved(seed: int) -> tuple[Problem, Solution | None]:
    problem = _tight(random_dag(seed, 6), seed)
    try:
        return problem, solve(Mip(), problem, SolveOptions(time_limit_s=0.5, workers=1))
    except (InfeasibleBudgetError, SolverTimeoutError):
        return problem, None


def test_plans_lie_between_the_optima_of_every_order_and_of_the_given_one() -> None:
    changed = helped = 0
    for seed in range(60):
        problem, solution = _solved(seed)
        given, ideal = best_recompute_only(problem), best_recompute_only(problem, any_order=True)
        if solution is None:
            assert given is None
            continue
        assert ideal is not None
        assert ideal <= solution.timeline.step_ns
        assert given is None or solution.timeline.step_ns <= given
        changed += first_executions(solution.schedule) != tuple(range(6))
        helped += given is None or solution.timeline.step_ns < given
    assert changed >= helped > 3


def _random_order(problem: Problem, rng: random.Random) -> tuple[int, ...]:
    order: list[int] = []
    while len(order) < len(problem.tasks):
        ready = [t for t, info in enumerate(problem.tasks) if t not in order and set(info.reads) <= set(order)]
        order.append(rng.choice(ready))
    return tuple(order)


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_bound_holds_for_the_class_that_it_names(monkeypatch: pytest.MonkeyPatch, shuffled: bool) -> None:
    """Whatever order is taken, also a useless one: a task of these problems makes the value of its own number."""
    if shuffled:
        monkeypatch.setattr(
            mip, "better_order", lambda p, options: _random_order(p, random.Random(options.seed + len(p.tasks)))
        )
    scopes = set()
    for seed in range(40):
        problem, solution = _solved(seed)
        if solution is None:
            continue
        scopes.add(solution.bound_scope)
        own = permuted(problem, first_executions(solution.schedule))
        if solution.bound_scope == EVERY:
            best = best_recompute_only(problem, any_order=True)
        else:
            best = best_recompute_only(problem if solution.bound_scope == IN_ORDER else own)
        assert best is not None
        assert solution.lower_bound_ns <= best
        assert (solution.bound_scope != IN_ORDER) or first_executions(solution.schedule) == tuple(range(6))
    assert scopes >= {EVERY, IN_PLANS_ORDER if shuffled else IN_ORDER}


def test_a_permuted_problem_has_the_schedules_of_the_first_renumbered() -> None:
    problem = branches(3)
    order = (2, 5, 0, 1, 3, 4, 6)
    assert memory_profile(permuted(problem, order), Schedule(tuple(range(7)))) == memory_profile(
        problem, Schedule(order)
    )
    assert renumbered(Schedule(tuple(range(7))), order).steps == order
