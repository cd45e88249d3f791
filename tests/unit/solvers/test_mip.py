"""The planner's promises: status, limits, errors, determinism, and the minimum budget by swapping."""

import itertools
import time
from dataclasses import replace
from pathlib import Path

import pytest
from support.problems import FREE, random_problem

from planc.clock import WALL, WorkClock
from planc.enums import Status
from planc.errors import InfeasibleBudgetError, SolverTimeoutError
from planc.instances.instance import read_instance
from planc.problem.bounds import minimum_budget
from planc.problem.problem import Problem, Task, Value
from planc.schedule.residency import memory_profile
from planc.schedule.schedule import Schedule
from planc.schedule.solver import Progress, SolveOptions, solve
from planc_solvers.mip import Mip
from planc_solvers.search.task_order import first_executions
from planc_solvers.solve_state import SolveState

INSTANCES = Path(__file__).parents[3] / "benchmarks" / "solver" / "instances"


def _swappable(seed: int) -> Problem:
    problem = random_problem(seed, contention=FREE)
    return replace(problem, values=tuple(replace(v, swappable=True) for v in problem.values))


def _peak(problem: Problem) -> int:
    return max(memory_profile(problem, Schedule(tuple(range(len(problem.tasks))))))


@pytest.mark.parametrize(("share", "percent"), [(0.9, 0.108), (0.8, 0.279), (0.5, 1.499)])
def test_published_optima_of_resnet50_are_proved(share: float, percent: float) -> None:
    read = read_instance(INSTANCES / "resnet50_train.json")
    problem = read.with_budget(int(read.peak_bytes * share))
    solution = solve(Mip(), problem, SolveOptions(time_limit_s=20))
    assert solution.status is Status.OPTIMAL
    assert 100 * (solution.timeline.step_ns / problem.base_duration_ns - 1) == pytest.approx(percent, abs=0.002)


@pytest.mark.parametrize("seed", range(6))
def test_swapping_reaches_the_minimum_budget(seed: int) -> None:
    problem = _swappable(seed)
    least, _ = minimum_budget(problem)
    solution = solve(Mip(), replace(problem, budget_bytes=least), SolveOptions(time_limit_s=0.5))
    assert solution.peak_bytes <= least


def test_below_the_minimum_the_error_names_budget_and_layer() -> None:
    problem = _swappable(1)
    least, layer = minimum_budget(problem)
    with pytest.raises(InfeasibleBudgetError) as caught:
        solve(Mip(), replace(problem, budget_bytes=least - 1), SolveOptions(time_limit_s=0.5))
    assert (caught.value.minimum_budget_bytes, caught.value.layer) == (least, layer)


def test_recomputation_that_cannot_fit_is_an_error_not_a_plan() -> None:
    values = tuple(Value(f"v{i}", 10) for i in range(4))
    reads: tuple[tuple[int, ...], ...] = ((), (0,), (1,), (0, 2))
    tasks = tuple(Task(f"t{i}", 5, reads[i], (i,), 10, recomputable=False) for i in range(4))
    with pytest.raises((InfeasibleBudgetError, SolverTimeoutError)):
        solve(Mip(), Problem(tasks, values, 29), SolveOptions(time_limit_s=0.5))


def test_one_worker_gives_the_same_plan_for_the_same_seed() -> None:
    problem = _swappable(3)
    tight = replace(problem, budget_bytes=int(0.6 * _peak(problem)))
    options = SolveOptions(time_limit_s=3.0, workers=1, seed=5)
    assert solve(Mip(), tight, options).schedule == solve(Mip(), tight, options).schedule


def test_one_worker_takes_the_same_order_for_the_same_seed() -> None:
    problem = random_problem(1, tasks=40)
    tight = replace(problem, budget_bytes=int(0.7 * _peak(problem)))
    options = SolveOptions(time_limit_s=1.0, workers=1, seed=3)
    first = solve(Mip(), tight, options)
    assert first_executions(first.schedule) != tuple(range(40))
    assert solve(Mip(), tight, options).schedule == first.schedule


def test_time_limit_holds_and_progress_improves() -> None:
    read = read_instance(INSTANCES / "resnet50_train.json")
    problem = read.with_budget(int(read.peak_bytes * 0.3))
    seen: list[Progress] = []
    began = WALL.now()
    solve(Mip(), problem, SolveOptions(time_limit_s=3.0, on_progress=seen.append))
    assert WALL.now() - began < 6.0
    incumbents = [p.incumbent_ns for p in seen if p.incumbent_ns is not None]
    bounds = [p.bound_ns for p in seen if p.bound_ns is not None]
    assert incumbents == sorted(incumbents, reverse=True)
    assert bounds == sorted(bounds)
    assert bounds[-1] <= incumbents[-1]


@pytest.mark.parametrize("seed", range(5))
def test_a_host_limit_is_respected(seed: int) -> None:
    problem = _swappable(seed)
    tight = replace(problem, budget_bytes=int(0.7 * _peak(problem)), host_budget_bytes=20)
    try:
        solve(Mip(), tight, SolveOptions(time_limit_s=0.5))
    except (SolverTimeoutError, InfeasibleBudgetError):
        return


@pytest.mark.parametrize("seed", range(4))
def test_a_price_on_boundaries_is_paid_in_the_prediction(seed: int) -> None:
    problem = replace(_swappable(seed), boundary_ns=7)
    tight = replace(problem, budget_bytes=int(0.6 * _peak(problem)))
    free = solve(Mip(), replace(tight, boundary_ns=0), SolveOptions(time_limit_s=0.5))
    paid = solve(Mip(), tight, SolveOptions(time_limit_s=0.5))
    assert paid.timeline.step_ns >= free.lower_bound_ns


def test_a_larger_budget_never_predicts_a_slower_step() -> None:
    problem = _swappable(2)
    peak, least = _peak(problem), minimum_budget(problem)[0]
    times = [
        solve(Mip(), replace(problem, budget_bytes=budget), SolveOptions(time_limit_s=0.3)).timeline.step_ns
        for budget in range(least, peak + 1, max(1, (peak - least) // 6))
    ]
    assert times == sorted(times, reverse=True)


def test_work_counted_ends_at_the_same_point_whatever_the_machine_does(monkeypatch: pytest.MonkeyPatch) -> None:
    read = read_instance(INSTANCES / "resnet50_train.json")
    problem = read.with_budget(int(read.peak_bytes * 0.3))
    clocks = [WorkClock(), WorkClock()]
    options = SolveOptions(time_limit_s=2.0, workers=1, seed=1)
    first = solve(Mip(), problem, replace(options, clock=clocks[0]))
    # A clock that jumps an hour at each look must not matter.
    jumps = itertools.count(0, 3600)
    monkeypatch.setattr(time, "monotonic", lambda: float(next(jumps)))
    second = solve(Mip(), problem, replace(options, clock=clocks[1]))
    assert (first.schedule, first.lower_bound_ns) == (second.schedule, second.lower_bound_ns)
    assert clocks[0].now() == clocks[1].now() <= 2.0 * 1.1 + 1


def test_a_gap_that_is_asked_for_ends_the_search_and_a_smaller_one_lets_it_go_on() -> None:
    read = read_instance(INSTANCES / "resnet50_train.json")
    problem = read.with_budget(int(read.peak_bytes * 0.3))
    began = WALL.now()
    assert solve(Mip(), problem, SolveOptions(20.0, gap=0.05)).gap <= 0.05
    assert WALL.now() - began < 10
    state = SolveState(990, SolveOptions(60.0, gap=0.0))
    state.best_ns = 990.05
    assert not state.finished()
    state.best_ns = 990.0
    assert state.finished()


@pytest.mark.parametrize("seed", range(3))
def test_patience_changes_nothing_where_a_plan_is_found_in_time(seed: int) -> None:
    problem = _swappable(seed)
    least = minimum_budget(problem)[0]
    tight = replace(problem, budget_bytes=(least + _peak(problem)) // 2)
    options = SolveOptions(time_limit_s=0.5, workers=1)
    assert solve(Mip(), tight, options).schedule == solve(Mip(), tight, replace(options, patience_s=5.0)).schedule
