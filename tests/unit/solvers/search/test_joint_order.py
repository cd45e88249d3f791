"""Order and recomputations searched together, on layered graphs in which greedy plans do not fit."""

import sys
from dataclasses import replace
from math import inf
from pathlib import Path

import pytest

from planc.clock import WorkClock
from planc.problem.problem import Origin, Problem, Task, Value
from planc.schedule.residency import memory_profile
from planc.schedule.schedule import Schedule
from planc.schedule.solver import SolveOptions, load_solver, solve
from planc_solvers.search.joint_order import free_order, reordered
from planc_solvers.search.task_order import first_executions, greedy_ns

sys.path.insert(0, str(Path(__file__).parents[4] / "benchmarks" / "solver"))
from layered import random_layered


@pytest.fixture(scope="module")
def layered() -> Problem:
    return random_layered(200, 0.7)


def test_a_schedule_near_the_budget_computes_every_task_in_another_order(layered: Problem) -> None:
    given = max(memory_profile(layered, Schedule(tuple(range(len(layered.tasks))))))
    schedule = reordered(layered, SolveOptions(5.0, workers=1, clock=WorkClock()))
    assert greedy_ns(layered, 0) == inf
    assert sorted(first_executions(schedule)) == list(range(len(layered.tasks)))
    assert max(memory_profile(layered, schedule)) < layered.budget_bytes * 1.05 < given * 0.8


def _quick(problem: Problem) -> Schedule:
    return reordered(problem, SolveOptions(0.5, 3, workers=1, clock=WorkClock()))


def test_one_worker_finds_the_same_schedule_twice(layered: Problem) -> None:
    assert _quick(layered) == _quick(layered)


def test_a_plan_is_found_where_greedy_plans_do_not_fit(layered: Problem) -> None:
    found = solve(load_solver("mip"), layered, SolveOptions(time_limit_s=8.0))
    assert found.peak_bytes <= layered.budget_bytes
    assert found.lower_bound_ns <= found.timeline.step_ns


def test_the_order_is_not_free_beside_swaps_and_updates() -> None:
    task, value = Task("t", 1, (), (0,), 1), Value("v", 1)
    assert free_order(Problem((task,), (value,), 2))
    assert not free_order(Problem((task,), (replace(value, swappable=True),), 2))
    assert not free_order(Problem((replace(task, reads=(0,)),), (Value("s", 1, Origin.STATE),), 2))
