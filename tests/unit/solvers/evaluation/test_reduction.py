"""Values too small to be worth a copy, and schedules taken up again as plans."""

from dataclasses import replace

import pytest
from support.problems import random_problem

from planc.problem.bounds import minimum_budget
from planc.problem.problem import Origin, Problem
from planc.schedule.residency import memory_profile
from planc.schedule.schedule import Schedule
from planc.schedule.simulate import simulate
from planc.schedule.solver import SolveOptions, solve
from planc_solvers.evaluation.arrays import arrays_of, empty_plan
from planc_solvers.evaluation.evaluate import evaluate
from planc_solvers.evaluation.reduction import reduced, reduced_arrays
from planc_solvers.evaluation.schedule_conversion import plan_of, schedule_of
from planc_solvers.evaluation.workspace import MAKESPAN, workspace
from planc_solvers.mip import Mip


def _scaled(seed: int, share: float) -> Problem:
    """A random problem whose sizes are spread over four orders of magnitude, at a share of what its budget may lose."""
    problem = random_problem(seed)
    values = tuple(
        replace(v, bytes=v.bytes * (1000 if i % 3 else 1), swappable=True) for i, v in enumerate(problem.values)
    )
    made = [v.bytes if v.origin is Origin.COMPUTED else 0 for v in values]
    tasks = tuple(replace(t, working_bytes=sum(made[v] for v in t.writes)) for t in problem.tasks)
    whole = replace(problem, tasks=tasks, values=values)
    least, _ = minimum_budget(whole)
    peak = max(memory_profile(whole, Schedule(tuple(range(len(tasks))))))
    return replace(whole, budget_bytes=int(least + (peak - least) * share))


@pytest.mark.parametrize("seed", range(12))
def test_what_stays_is_small_and_no_larger_than_the_rest(seed: int) -> None:
    problem = _scaled(seed, 0.7)
    small = reduced(problem)
    kept = [i for i, (a, b) in enumerate(zip(problem.values, small.values, strict=True)) if a.swappable > b.swappable]
    assert kept
    assert sum(problem.values[v].bytes for v in kept) <= 0.002 * problem.budget_bytes
    assert max(problem.values[v].bytes for v in kept) <= min(v.bytes for v in small.values if v.swappable)


@pytest.mark.parametrize("seed", range(8))
def test_nothing_is_kept_at_the_smallest_budget(seed: int) -> None:
    problem = _scaled(seed, 0.0)
    assert all(v.swappable for v in reduced(problem).values)
    solution = solve(Mip(), problem, SolveOptions(time_limit_s=0.5, workers=1))
    assert solution.peak_bytes <= minimum_budget(problem)[0]


@pytest.mark.parametrize("seed", range(12))
def test_plans_of_the_reduced_problem_are_plans_of_the_whole(seed: int) -> None:
    problem = _scaled(seed, 0.6)
    solution = solve(Mip(), problem, SolveOptions(time_limit_s=0.5, workers=1))
    kept = {i for i, v in enumerate(reduced(problem).values) if not v.swappable}
    assert kept
    assert not kept & {copy.value for copy in solution.schedule.copies}
    small = reduced(problem)
    arrays = reduced_arrays(problem, small)
    plan, place = plan_of(small, arrays, solution.schedule), workspace(arrays)
    assert plan is not None
    assert evaluate(arrays, plan, place)
    again = schedule_of(problem, plan, place)
    assert max(memory_profile(problem, again)) <= problem.budget_bytes
    assert simulate(problem, again).step_ns == pytest.approx(place.total[MAKESPAN], abs=1)


@pytest.mark.parametrize("seed", range(20))
def test_a_schedule_becomes_the_plan_that_it_came_from(seed: int) -> None:
    problem = _scaled(seed, 0.5)
    arrays = arrays_of(problem)
    solution = solve(Mip(), problem, SolveOptions(time_limit_s=0.3, workers=1))
    plan = plan_of(problem, arrays, solution.schedule)
    assert plan is not None
    place = workspace(arrays)
    assert evaluate(arrays, plan, place)
    assert place.total[MAKESPAN] <= solution.timeline.step_ns + 1


@pytest.mark.parametrize("seed", range(6))
def test_a_search_begins_from_the_schedule_it_is_given(seed: int) -> None:
    problem = _scaled(seed, 0.5)
    first = solve(Mip(), problem, SolveOptions(time_limit_s=0.5, workers=1))
    again = solve(Mip(), problem, SolveOptions(time_limit_s=0.05, workers=1, start=first.schedule))
    assert again.timeline.step_ns <= first.timeline.step_ns
    tighter = replace(problem, budget_bytes=int(problem.budget_bytes * 0.97))
    if minimum_budget(problem)[0] <= tighter.budget_bytes:
        moved = solve(Mip(), tighter, SolveOptions(time_limit_s=0.3, workers=1, start=first.schedule))
        assert moved.peak_bytes <= tighter.budget_bytes


def test_a_schedule_too_long_for_the_search_is_left_aside() -> None:
    problem = _scaled(1, 0.9)
    arrays = arrays_of(problem)
    repeat = next(i for i, t in enumerate(problem.tasks) if t.recomputable)
    steps = (*range(repeat + 1), *(repeat,) * empty_plan(arrays).seq.size, *range(repeat + 1, len(problem.tasks)))
    assert plan_of(problem, arrays, Schedule(steps)) is None
