"""What the search does to plans: first executions keep their order, rebuilt plans compute the problem within the budget."""

import random
from dataclasses import replace

import numpy as np
import pytest
from support.problems import random_dag, random_problem

from planc.problem.bounds import minimum_budget
from planc.problem.problem import Problem
from planc.schedule.residency import memory_profile
from planc.schedule.schedule import Schedule
from planc.schedule.simulate import simulate
from planc_solvers.evaluation.arrays import SearchPlan, arrays_of, empty_plan
from planc_solvers.evaluation.evaluate import evaluate
from planc_solvers.evaluation.schedule_conversion import schedule_of
from planc_solvers.evaluation.workspace import EXCESS, MAKESPAN, workspace
from planc_solvers.moves.eviction import trail
from planc_solvers.moves.rebuild import rebuild
from planc_solvers.search.annealing import CURRENT, REBUILDING, SMALL_MOVES, Turn, anneal, annealing, start
from planc_solvers.search.task_order import first_executions


def _tight(problem: Problem, share: float) -> Problem:
    peak = max(memory_profile(problem, Schedule(tuple(range(len(problem.tasks))))))
    least, _ = minimum_budget(problem)
    return replace(problem, budget_bytes=int(least + (peak - least) * share))


def _problem(seed: int, swaps: bool) -> Problem:
    problem = random_problem(seed, tasks=25) if swaps else random_dag(seed, 25)
    return _tight(problem, 0.4)


def _annealed(problem: Problem, seed: int, rebuilding: bool) -> SearchPlan:
    """The current plan of a hot search, which may be over the budget."""
    arrays = arrays_of(problem)
    search, heat = annealing(arrays), problem.base_duration_ns * 0.05
    start(arrays, search, empty_plan(arrays), 1.0)
    anneal(
        arrays, search, Turn(REBUILDING if rebuilding else SMALL_MOVES, 40 if rebuilding else 4000, heat, 1e-3, seed)
    )
    return search.plans[int(search.state[CURRENT])]


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("swaps", [False, True])
@pytest.mark.parametrize("rebuilding", [False, True])
def test_moves_keep_the_order_of_first_executions(seed: int, swaps: bool, rebuilding: bool) -> None:
    problem = _problem(seed, swaps)
    plan = _annealed(problem, seed, rebuilding)
    steps = Schedule(tuple(int(task) for task in plan.seq[: plan.length[0]]))
    assert first_executions(steps) == tuple(range(len(problem.tasks)))


@pytest.mark.parametrize("swaps", [False, True])
def test_rebuilt_plans_compute_the_problem_mostly_within_the_budget(swaps: bool) -> None:
    built, fitting = 0, 0
    for seed in range(40):
        problem = _problem(seed, swaps)
        arrays, rng = arrays_of(problem), np.random.default_rng(seed)
        plan, place, found = empty_plan(arrays), workspace(arrays), trail(arrays)
        current = _annealed(problem, seed, False)
        for _ in range(10):
            found.weights[:] = rng.uniform(0.0, 2.0, 4)
            begin = int(rng.integers(0, current.length[0]))
            if not rebuild(arrays, current, plan, found, begin, begin + int(rng.integers(0, 12))):
                continue
            assert evaluate(arrays, plan, place)
            built += 1
            if place.total[EXCESS] <= 0:
                fitting += 1
                schedule = schedule_of(problem, plan, place)
                assert max(memory_profile(problem, schedule)) <= problem.budget_bytes
                assert simulate(problem, schedule).step_ns == pytest.approx(place.total[MAKESPAN], abs=1)
    assert built > 100
    assert fitting > 0.9 * built


def test_forgetting_nothing_keeps_a_plan_that_fits() -> None:
    kept = 0
    for seed in range(20):
        problem = _problem(seed, swaps=True)
        arrays, found = arrays_of(problem), trail(arrays_of(problem))
        greedy, again, place = empty_plan(arrays), empty_plan(arrays), workspace(arrays)
        found.weights[:] = random.Random(seed).choice(((1.0, 0.5, 0.1, 0.5), (0.5, 1.0, 0.3, 0.1)))
        if not rebuild(arrays, empty_plan(arrays), greedy, found, 0, greedy.seq.size):
            continue
        evaluate(arrays, greedy, place)
        before = float(place.total[MAKESPAN])
        if place.total[EXCESS] > 0 or not rebuild(arrays, greedy, again, found, 0, 0):
            continue
        assert evaluate(arrays, again, place)
        assert place.total[MAKESPAN] == pytest.approx(before)
        kept += 1
    assert kept > 5
