"""Plans over the budget are mended into plans that fit, by the reference's count of bytes."""

import random
from dataclasses import replace

import pytest
from support.problems import random_problem

from planc.enums import Direction
from planc.problem.problem import Problem
from planc.schedule.residency import memory_profile
from planc.schedule.schedule import Schedule
from planc_solvers.evaluation.arrays import arrays_of, empty_plan
from planc_solvers.evaluation.evaluate import evaluate
from planc_solvers.evaluation.schedule_conversion import schedule_of
from planc_solvers.evaluation.workspace import EXCESS, OUTS, workspace
from planc_solvers.search.mend import mend


def _tight(seed: int, share: float) -> Problem:
    problem = random_problem(seed, boundary_ns=random.Random(seed).choice([0, 3]))
    values = tuple(replace(v, swappable=True) for v in problem.values)
    peak = max(memory_profile(problem, Schedule(tuple(range(len(problem.tasks))))))
    return replace(problem, values=values, budget_bytes=int(peak * share))


@pytest.mark.parametrize("share", [0.95, 0.9, 0.8])
def test_a_mended_plan_fits_and_runs_the_same_steps(share: float) -> None:
    mended = 0
    for seed in range(40):
        problem = _tight(seed, share)
        arrays = arrays_of(problem)
        place, plan = workspace(arrays), empty_plan(arrays)
        evaluate(arrays, plan, place)
        over = place.total[EXCESS] > 0
        if not mend(arrays, plan, place) or not over:
            continue
        schedule = schedule_of(problem, plan, place)
        assert max(memory_profile(problem, schedule)) <= problem.budget_bytes
        assert schedule.steps == tuple(range(len(problem.tasks)))
        assert schedule.engine(Direction.IN)
        mended += 1
    assert mended >= 5


def test_a_plan_that_fits_is_left_alone() -> None:
    for seed in range(10):
        arrays = arrays_of(_tight(seed, 1.0))
        place, plan = workspace(arrays), empty_plan(arrays)
        assert mend(arrays, plan, place)
        assert not plan.fetch.any()
        assert place.tally[OUTS] == 0
