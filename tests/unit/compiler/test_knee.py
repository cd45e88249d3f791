"""`--budget auto`, budgets as Python numbers, `max`."""

import math

import msgspec
import pytest
from support.costs import made_up_costs
from support.networks import cnn, mlp

from planc.compiler.budget import budget_text
from planc.compiler.job import CompileJob
from planc.compiler.knee import curve, knee
from planc.compiler.options import CompileOptions
from planc.compiler.within import compile_within
from planc.errors import InfeasibleBudgetError, UsageError
from planc.plan.plan import CurvePoint


def test_the_knee_is_where_more_memory_stops_to_help() -> None:
    steps = [200, 150, 104, 102, 101, 100]
    points = [CurvePoint(100 * (i + 1), step) for i, step in enumerate(steps)]
    assert knee(points).budget_bytes == 300


def test_a_flat_curve_takes_the_least_memory() -> None:
    assert knee([CurvePoint(100, 1005), CurvePoint(500, 1000)]).budget_bytes == 100
    assert knee([CurvePoint(100, 7)]).budget_bytes == 100


def test_a_straight_line_has_no_better_point_than_its_ends() -> None:
    points = [CurvePoint(100 * i, 200 - 10 * i) for i in range(1, 6)]
    assert knee(points) == points[0]


def test_auto_compiles_at_the_knee_of_a_curve_that_never_rises() -> None:
    imported = cnn()
    job = CompileJob.of(imported, made_up_costs(imported.graph, scratch=1 << 10))
    told = []
    options = CompileOptions("auto", "keep-all", time_limit_s=2.0)
    points = curve(job, options)
    steps = [point.step_ns for point in points]
    assert steps == sorted(steps, reverse=True)
    result = compile_within(job, options, lambda *found: told.append(found))
    ((_, chosen),) = told
    assert result.plan.memory.budget_bytes == chosen.budget_bytes


@pytest.mark.parametrize(
    ("given", "text"),
    [(0.5, "50.0000000000%"), (2.0, "200.0000000000%"), (1 << 30, "1073741824B"), ("8GiB", "8GiB"), (None, None)],
)
def test_numbers_are_shares_or_bytes(given: object, text: object) -> None:
    assert budget_text(given) == text


@pytest.mark.parametrize("given", [True, 0, -1, 0.0, math.nan, math.inf])
def test_other_numbers_are_refused(given: object) -> None:
    with pytest.raises(UsageError, match="expected a share such as 0.5"):
        budget_text(given)


def test_max_is_all_that_the_device_had_free() -> None:
    imported = mlp()
    costs = made_up_costs(imported.graph, scratch=1 << 10)
    assert CompileJob.of(imported, costs).budget_bytes("max") == costs.device.memory_bytes


@pytest.mark.parametrize("text", ["50", "8", "0.5"])
def test_a_number_that_may_mean_anything_is_answered_with_what_to_write(text: str) -> None:
    imported = mlp()
    job = CompileJob.of(imported, made_up_costs(imported.graph, scratch=1 << 10))
    with pytest.raises(UsageError, match=f"which unit. Write {text}% or {text}GiB"):
        job.budget_bytes(text)


def test_auto_does_not_exceed_what_the_device_has_free() -> None:
    imported = mlp()
    costs = made_up_costs(imported.graph, scratch=1 << 10)
    small = msgspec.structs.replace(costs, device=msgspec.structs.replace(costs.device, memory_bytes=1 << 12))
    with pytest.raises(InfeasibleBudgetError):
        compile_within(CompileJob.of(imported, small), CompileOptions("auto", "keep-all", time_limit_s=2.0))
