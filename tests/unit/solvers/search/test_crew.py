"""Annealings side by side: one alone is the annealing, several share what is best, and none stays far behind."""

from dataclasses import replace
from math import inf

import pytest
from support.problems import random_problem

from planc.problem.problem import Problem
from planc.schedule.residency import memory_profile
from planc.schedule.schedule import Schedule
from planc_solvers.evaluation.arrays import Arrays, SearchPlan, arrays_of, empty_plan
from planc_solvers.evaluation.evaluate import evaluate
from planc_solvers.evaluation.schedule_conversion import schedule_of
from planc_solvers.evaluation.workspace import EXCESS, MAKESPAN, workspace
from planc_solvers.search.annealing import BEST, SCORE, SMALL_MOVES, Annealing, Turn, anneal, annealing, start
from planc_solvers.search.crew import Crew
from planc_solvers.search.greedy import greedy_plans

PRICE = 10.0
COLD = 1e-6


def _tight(seed: int) -> Problem:
    problem = random_problem(seed)
    values = tuple(replace(v, swappable=True) for v in problem.values)
    peak = max(memory_profile(problem, Schedule(tuple(range(len(problem.tasks))))))
    return replace(problem, values=values, budget_bytes=int(peak * 0.9))


def _begun(arrays: Arrays, plan: SearchPlan) -> Annealing:
    search = annealing(arrays)
    search.state[BEST] = inf
    start(arrays, search, plan, PRICE)
    return search


def _turn(moves: int, heat: float = COLD) -> Turn:
    return Turn(SMALL_MOVES, moves, heat, 0.0, 5)


@pytest.mark.parametrize("seed", range(5))
def test_one_alone_does_what_the_annealing_does(seed: int) -> None:
    arrays = arrays_of(_tight(seed))
    alone, first = _begun(arrays, empty_plan(arrays)), _begun(arrays, empty_plan(arrays))
    anneal(arrays, alone, _turn(500, 5.0))
    Crew(arrays, first).anneal(_turn(500, 5.0), 1)
    assert list(first.state) == list(alone.state)


@pytest.mark.parametrize("seed", range(5))
def test_the_best_plan_of_several_fits_and_takes_as_long_as_is_told(seed: int) -> None:
    problem = _tight(seed)
    arrays = arrays_of(problem)
    alone, first, place = _begun(arrays, empty_plan(arrays)), _begun(arrays, empty_plan(arrays)), workspace(arrays)
    anneal(arrays, alone, _turn(300, 5.0))
    Crew(arrays, first).anneal(_turn(300, 5.0), 4)
    assert first.state[BEST] <= alone.state[BEST]
    if first.state[BEST] < inf:
        assert evaluate(arrays, first.best, place)
        assert place.total[EXCESS] <= 0
        assert place.total[MAKESPAN] == first.state[BEST]
        assert max(memory_profile(problem, schedule_of(problem, first.best, place))) <= problem.budget_bytes


def test_one_that_lies_behind_goes_on_from_a_better_plan() -> None:
    arrays = arrays_of(_tight(1))
    better, bad = next(p for p in greedy_plans(arrays, workspace(arrays), 0) if p is not None), empty_plan(arrays)
    first = _begun(arrays, better)
    ahead = float(first.state[SCORE])
    crew = Crew(arrays, first)
    crew.anneal(_turn(0), 2)  # the other begins at the first's plan
    start(arrays, first, bad, PRICE)
    behind = float(first.state[SCORE])
    for _ in range(30):
        crew.anneal(_turn(0), 2)
    assert first.state[SCORE] == ahead < behind


def test_gathered_all_go_on_from_the_plan_of_the_first() -> None:
    arrays = arrays_of(_tight(1))
    better, bad = next(p for p in greedy_plans(arrays, workspace(arrays), 0) if p is not None), empty_plan(arrays)
    first = _begun(arrays, better)
    crew = Crew(arrays, first)
    crew.anneal(_turn(0), 2)
    start(arrays, first, bad, PRICE)
    behind = float(first.state[SCORE])
    crew.gather()
    for _ in range(30):
        crew.anneal(_turn(0), 2)
    assert first.state[SCORE] == behind
