"""Eviction with recomputation on demand: its plans fit, and it finds one at budgets where hardly any exist."""

import random
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from support.oracle import best_recompute_only
from support.problems import random_dag, random_problem

from planc.instances.instance import read_instance
from planc.problem.bounds import minimum_budget
from planc.problem.problem import Problem
from planc.schedule.residency import memory_profile
from planc.schedule.schedule import Schedule
from planc_solvers.evaluation.arrays import arrays_of
from planc_solvers.evaluation.evaluate import evaluate
from planc_solvers.evaluation.schedule_conversion import schedule_of
from planc_solvers.evaluation.workspace import workspace
from planc_solvers.search.greedy import greedy_plans

INSTANCES = Path(__file__).parents[4] / "benchmarks" / "solver" / "instances"


def _schedules(problem: Problem) -> list[Schedule]:
    arrays, found = arrays_of(problem), []
    place = workspace(arrays)
    for plan in islice(greedy_plans(arrays, place, 0), 30):
        if plan is not None:
            assert evaluate(arrays, plan, place)
            found.append(schedule_of(problem, plan, place))
    return found


def _tight(problem: Problem, seed: int) -> Problem:
    peak = max(memory_profile(problem, Schedule(tuple(range(len(problem.tasks))))))
    least, _ = minimum_budget(problem)
    return replace(problem, budget_bytes=random.Random(seed).randint(least, max(least, peak - 1)))


def test_plans_of_random_graphs_fit_and_are_found_where_one_exists() -> None:
    possible = found = 0
    for seed in range(60):
        problem = _tight(random_dag(seed), seed)
        schedules = _schedules(problem)
        assert all(max(memory_profile(problem, s)) <= problem.budget_bytes for s in schedules)
        possible += best_recompute_only(problem) is not None
        found += bool(schedules)
    assert 0.8 * possible <= found <= possible


def test_state_is_not_read_after_its_update() -> None:
    for seed in range(60):
        problem = random_problem(seed)
        peak = max(memory_profile(problem, Schedule(tuple(range(len(problem.tasks))))))
        for schedule in _schedules(replace(problem, budget_bytes=int(peak * 0.9))):
            assert max(memory_profile(problem, schedule)) <= int(peak * 0.9)


@pytest.mark.parametrize(("share", "overhead"), [(0.5, 0.018), (0.3, 0.05), (0.12, 0.25)])
def test_resnet50_is_planned_close_to_its_smallest_budget(share: float, overhead: float) -> None:
    """The working set of one layer takes 9.7 % of the peak."""
    read = read_instance(INSTANCES / "resnet50_train.json")
    problem = read.with_budget(int(read.peak_bytes * share))
    base = problem.base_duration_ns
    times = [sum(problem.tasks[t].duration_ns for t in schedule.steps) / base - 1 for schedule in _schedules(problem)]
    assert 0 < min(times) <= overhead
