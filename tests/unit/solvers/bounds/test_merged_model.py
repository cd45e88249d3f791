"""Merged models against the whole relaxation of a repetitive network."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from planc.problem.problem import Origin
from planc_solvers.baselines.training_step import turning_point
from planc_solvers.bounds.coarse_model import Coarse, coarse_model
from planc_solvers.bounds.decode import decode
from planc_solvers.bounds.merged_model import Merger
from planc_solvers.evaluation.arrays import arrays_of
from planc_solvers.evaluation.evaluate import evaluate
from planc_solvers.evaluation.workspace import EXCESS, ON_HOST, workspace

sys.path.insert(0, str(Path(__file__).parents[4] / "benchmarks" / "solver"))
from networks import GPU_2017, H100, resnet


@pytest.fixture(scope="module")
def coarse() -> Coarse:
    problem = resnet((2, 2, 20, 2), 16, H100).problem(0.3)
    return coarse_model(problem, (turning_point(problem),))


@pytest.mark.parametrize("rounds", [1, 3, 6])
def test_the_merged_duals_bound_the_whole_relaxation_from_below(coarse: Coarse, rounds: int) -> None:
    whole, merged = coarse.model.solve(30, relaxed=True), Merger(coarse, rounds).solve(30)
    assert merged is not None
    assert merged.bound <= whole.objective * (1 + 1e-6)
    if rounds == 6:
        assert merged.bound > 1 + 0.8 * (whole.objective - 1)


def test_the_rounded_point_decodes_to_a_plan_near_the_budget(coarse: Coarse) -> None:
    merged, arrays = Merger(coarse, 6).solve(30), arrays_of(coarse.problem)
    assert merged is not None
    assert set(np.unique(merged.point)) <= {0.0, 0.5, 1.0}
    place = workspace(arrays)
    assert evaluate(arrays, decode(coarse, coarse.problem, arrays, merged.point), place)
    assert place.total[EXCESS] < 0.05 * arrays.budget * len(coarse.problem.tasks)


@pytest.mark.parametrize(("budget", "slowness"), [(0.8, 1.0), (1.0, 1.5)])
def test_smaller_budgets_and_slower_copies_are_those_of_another_problem(
    coarse: Coarse, budget: float, slowness: float
) -> None:
    """With every difference refined, the merged model is the whole relaxation of the problem so changed."""
    problem = coarse.problem
    values = tuple(
        replace(v, copy_out_ns=round(v.copy_out_ns * slowness), copy_in_ns=round(v.copy_in_ns * slowness))
        for v in problem.values
    )
    other = replace(problem, values=values, budget_bytes=round(problem.budget_bytes * budget))
    expected = coarse_model(other, coarse.critical).model.solve(30, relaxed=True).objective
    answer = Merger(coarse, 30)._small(budget, slowness, 1.0).solve(30, relaxed=True)
    assert answer.objective == pytest.approx(expected, rel=1e-6)
    assert answer.objective > coarse.model.solve(30, relaxed=True).objective * 1.001


def test_less_of_the_host_is_another_host_limit(coarse: Coarse) -> None:
    limit = sum(v.bytes for v in coarse.problem.values) // 12
    held = replace(coarse.problem, host_budget_bytes=limit)
    tighter = replace(held, host_budget_bytes=round(limit * 0.7))
    expected = coarse_model(tighter, coarse.critical).model.solve(30, relaxed=True).objective
    answer = Merger(coarse_model(held, coarse.critical), 30)._small(1.0, 1.0, 0.7).solve(30, relaxed=True)
    assert answer.objective == pytest.approx(expected, rel=1e-6)
    assert answer.objective > coarse_model(held, coarse.critical).model.solve(30, relaxed=True).objective * 1.001


def test_rounded_points_cost_what_the_relaxation_says() -> None:
    """Within a limit on the host whole blocks are recomputed: what one recomputation makes is given up together."""
    problem = resnet((2, 2, 120, 2), 16, GPU_2017).problem(0.3)
    saved = sum(v.bytes for v in problem.values if v.origin is Origin.COMPUTED and v.swappable)
    held = replace(problem, host_budget_bytes=saved // 10)
    coarse, arrays = coarse_model(held, (turning_point(held),)), arrays_of(held)
    relaxed = coarse.model.solve(30, relaxed=True).objective - 1
    merged = Merger(coarse, 6).solve(30)
    assert merged is not None
    plan, place = decode(coarse, held, arrays, merged.point), workspace(arrays)
    assert evaluate(arrays, plan, place)
    repeated = arrays.duration[plan.seq[: plan.length[0]]].sum() / held.base_duration_ns - 1
    assert relaxed > 0.05
    assert repeated == pytest.approx(relaxed, rel=0.01)
    assert place.total[ON_HOST] <= 1.01 * held.host_budget_bytes
