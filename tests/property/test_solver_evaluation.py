"""The compiled evaluation agrees with the reference residencies, memory profile and simulation on random plans."""

import random
from dataclasses import replace

import numpy as np
import pytest
from support.problems import random_problem, with_exchanges

from planc.problem.problem import Problem
from planc.schedule.residency import host_bytes, memory_profile
from planc.schedule.schedule import Schedule
from planc.schedule.simulate import simulate
from planc_solvers.evaluation.arrays import SearchPlan, arrays_of, empty_plan
from planc_solvers.evaluation.evaluate import evaluate
from planc_solvers.evaluation.schedule_conversion import schedule_of
from planc_solvers.evaluation.workspace import EXCESS, MAKESPAN, ON_HOST, workspace


def _random_plan(problem: Problem, rng: random.Random) -> SearchPlan:
    plan = empty_plan(arrays_of(problem))
    steps = list(range(len(problem.tasks)))
    for _ in range(rng.randint(0, 4)):
        position = rng.randrange(1, len(steps))
        earlier = [task for task in steps[:position] if problem.tasks[task].recomputable]
        if earlier:
            steps.insert(position, rng.choice(earlier))
    plan.seq[: len(steps)] = steps
    plan.length[0] = len(steps)
    plan.fetch[: len(steps), 0] = [rng.getrandbits(8) & rng.getrandbits(8) for _ in steps]
    plan.batch[0] = rng.randrange(6)
    plan.home[:] = [value.swappable and rng.random() < 0.4 for value in problem.values]
    return plan


@pytest.mark.parametrize("exchanging", [False, True])
@pytest.mark.parametrize("seed", range(25))
def test_evaluation_equals_the_reference(seed: int, exchanging: bool) -> None:
    rng = random.Random(seed)
    problem = random_problem(seed, boundary_ns=rng.choice([0, 3]))
    if exchanging:
        problem = with_exchanges(problem, seed)
        assert any(task.exchange_ns for task in problem.tasks)
    peak = max(memory_profile(problem, Schedule(tuple(range(len(problem.tasks))))))
    compared = 0
    for share in (2.0, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5) * 4:
        tight = replace(problem, budget_bytes=int(peak * share))
        arrays = arrays_of(tight)
        place, plan = workspace(arrays), _random_plan(tight, rng)
        if not evaluate(arrays, plan, place) or place.total[EXCESS] > 0:
            continue
        schedule = schedule_of(tight, plan, place)
        assert max(memory_profile(tight, schedule)) <= tight.budget_bytes
        assert simulate(tight, schedule).step_ns == pytest.approx(place.total[MAKESPAN], abs=1)
        compared += 1
    assert compared


def test_host_limit_counts_what_is_swapped() -> None:
    found = 0
    for seed in range(40):
        problem = random_problem(seed)
        arrays = arrays_of(problem)
        place, plan = workspace(arrays), _random_plan(problem, random.Random(seed))
        if not evaluate(arrays, plan, place):
            continue
        used = host_bytes(problem, schedule_of(problem, plan, place))
        assert place.total[ON_HOST] == used
        evaluate(replace(arrays, host_budget=used), plan, place)
        enough = place.total[EXCESS]
        evaluate(replace(arrays, host_budget=max(used // 2, 0)), plan, place)
        if used > 0:
            found += 1
            assert place.total[EXCESS] > enough
    assert found > 10


def test_plan_that_repeats_a_task_after_its_state_changed_is_refused() -> None:
    refused = 0
    for seed in range(60):
        problem = random_problem(seed)
        arrays = arrays_of(problem)
        for task in np.flatnonzero((arrays.deadline < len(problem.tasks)) & (arrays.recomputable == 1)):
            plan = empty_plan(arrays)
            plan.seq[len(problem.tasks)] = task
            plan.length[0] += 1
            assert not evaluate(arrays, plan, workspace(arrays))
            refused += 1
    assert refused
