"""The simple policies on a roofline ResNet: what they promise holds in the checked schedule."""

import sys
from pathlib import Path

import pytest
from support.problems import random_dag

from planc.enums import Direction, Status
from planc.errors import InfeasibleBudgetError
from planc.problem.problem import Origin, Problem
from planc.schedule.solver import SolveOptions, load_solver, solve

sys.path.insert(0, str(Path(__file__).parents[4] / "benchmarks" / "solver"))
from networks import GPU_2017, resnet


@pytest.fixture(scope="module")
def whole() -> Problem:
    return resnet((1, 1, 1, 1), 16, GPU_2017, image=64).problem(1.0)


def _at(problem: Problem, fraction: float) -> Problem:
    return Problem(problem.tasks, problem.values, int(problem.budget_bytes * fraction))


def test_keep_all_is_optimal_where_it_fits_and_infeasible_below(whole: Problem) -> None:
    solution = solve(load_solver("keep-all"), whole, SolveOptions())
    assert solution.status is Status.OPTIMAL
    assert solution.timeline.step_ns == whole.base_duration_ns
    with pytest.raises(InfeasibleBudgetError) as caught:
        solve(load_solver("keep-all"), _at(whole, 0.99), SolveOptions())
    assert caught.value.minimum_budget_bytes == whole.budget_bytes


def test_vdnn_offloads_each_saved_value_once_and_prefetches_it_one_layer_ahead(whole: Problem) -> None:
    schedule = solve(load_solver("vdnn-all"), whole, SolveOptions()).schedule
    outs = [c.value for c in schedule.engine(Direction.OUT)]
    assert len(outs) == len(set(outs)) > 10
    image = next(v for v, value in enumerate(whole.values) if value.origin is Origin.BATCH)  # the host has it
    assert sorted([image, *outs]) == sorted(c.value for c in schedule.engine(Direction.IN))
    assert all(c.stop - c.start <= 1 for c in schedule.copies)
    assert schedule.steps == tuple(range(len(whole.tasks)))


def test_sqrt_n_recomputes_without_copies_and_needs_less(whole: Problem) -> None:
    solution = solve(load_solver("sqrt-n"), whole, SolveOptions())
    assert not solution.schedule.copies
    assert len(solution.schedule.steps) > len(whole.tasks)
    assert solution.peak_bytes < whole.budget_bytes


@pytest.mark.parametrize("name", ["vdnn-all", "sqrt-n"])
def test_policies_state_the_bytes_they_need(whole: Problem, name: str) -> None:
    peak = solve(load_solver(name), whole, SolveOptions()).peak_bytes
    with pytest.raises(InfeasibleBudgetError) as caught:
        solve(load_solver(name), Problem(whole.tasks, whole.values, peak - 1), SolveOptions())
    assert caught.value.minimum_budget_bytes == peak
    assert solve(load_solver(name), Problem(whole.tasks, whole.values, peak), SolveOptions()).peak_bytes == peak


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("name", ["vdnn-all", "sqrt-n"])
def test_policies_give_valid_schedules_on_any_graph(name: str, seed: int) -> None:
    solve(load_solver(name), random_dag(seed, tasks=15), SolveOptions())
