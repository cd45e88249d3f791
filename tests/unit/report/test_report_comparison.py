"""Comparing solvers: budgets and names read, rows as the contract says, infeasible ones among them."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.costs import made_up_costs
from support.networks import mlp

from planc.compiler.budget import budget_bytes, planning_problem
from planc.compiler.job import CompileJob, compile_model
from planc.compiler.options import CompileOptions
from planc.errors import UsageError
from planc.report import comparison, trials
from planc.report.comparison import compare, parse_budgets, parse_solvers
from planc.report.row import Row
from planc.report.scatter import pareto_front, scatter_scene
from planc.report.trials import Effort, Trial

FRESH = Effort(time_limit_s=5.0, remember=False)


def test_rows_are_what_compiling_alone_gives() -> None:
    imported = mlp()
    costs = made_up_costs(imported.graph, scratch=1 << 10)
    planning = planning_problem(imported.graph, costs)
    told: list[tuple[int, int, str]] = []
    result = compare(
        CompileJob.of(imported, costs), ("1MiB", "10%"), ("keep-all",), FRESH, progress=lambda *a: told.append(a)
    )
    plan = compile_model(imported, costs, CompileOptions("1MiB", "keep-all")).plan
    roomy, tight = result.rows
    assert (roomy.status, roomy.budget_bytes, roomy.overhead) == ("optimal", 1 << 20, 0.0)
    assert roomy.predicted_step_ns == plan.prediction.step_ns == result.unconstrained_step_ns
    assert roomy.slab_bytes == plan.memory.slab_bytes
    assert (tight.status, tight.predicted_step_ns, tight.overhead, tight.slab_bytes) == ("infeasible", None, None, None)
    assert tight.budget_bytes == budget_bytes("10%", planning, costs) == planning.liveness_peak_bytes // 10
    assert tight.minimum_budget_bytes is not None
    assert tight.minimum_budget_bytes > tight.budget_bytes
    assert [(done, total) for done, total, _ in told] == [(0, 2), (1, 2)]


def test_json_rows_carry_the_contracts_fields() -> None:
    imported = mlp()
    result = compare(
        CompileJob.of(imported, made_up_costs(imported.graph, scratch=1 << 10)), ("1MiB",), ("keep-all",), FRESH
    )
    data = json.loads(json.dumps(result.as_json()))
    promised = {"solver", "budget_bytes", "status", "predicted_step_ns", "overhead", "slab_bytes", "solve_s"}
    assert all(promised <= set(row) for row in data["rows"])
    assert len(data["rows"]) == 1


def test_the_smallest_budget_is_resolved_once_for_all_solvers() -> None:
    imported = mlp()
    costs = made_up_costs(imported.graph, scratch=1 << 10)
    (row,) = compare(CompileJob.of(imported, costs), ("min",), ("keep-all",), FRESH).rows
    assert row.budget_bytes == CompileJob.of(imported, costs).budget_bytes("min")
    assert row.status == "infeasible"


def test_budgets_and_solvers_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_budgets(" 80%, 4GiB,min ") == ("80%", "4GiB", "min")
    with pytest.raises(UsageError, match="--budgets"):
        parse_budgets(" , ")
    monkeypatch.setattr(comparison, "solver_names", lambda: ("keep-all", "mip"))
    assert parse_solvers("all") == ("keep-all", "mip")
    assert parse_solvers("mip, keep-all") == ("mip", "keep-all")
    with pytest.raises(UsageError, match=r"'best'.*keep-all, mip"):
        parse_solvers("mip,best")
    with pytest.raises(UsageError, match="unknown solver"):
        parse_solvers(",")


def test_an_unreadable_budget_is_a_usage_error() -> None:
    imported = mlp()
    with pytest.raises(UsageError, match="12 apples"):
        compare(CompileJob.of(imported, made_up_costs(imported.graph)), ("12 apples",), ("keep-all",), FRESH)


def _job() -> CompileJob:
    imported = mlp()
    return CompileJob.of(imported, made_up_costs(imported.graph, scratch=1 << 10))


def test_trials_in_processes_of_their_own_give_the_same_rows() -> None:
    alone = compare(_job(), ("1MiB", "10%"), ("keep-all", "sqrt-n", "caffe"), FRESH)
    told: list[tuple[int, int, str]] = []
    beside = compare(
        _job(), ("1MiB", "10%"), ("keep-all", "sqrt-n", "caffe"), replace(FRESH, jobs=2), lambda *a: told.append(a)
    )
    assert [replace(row, solve_s=0.0) for row in beside.rows] == [replace(row, solve_s=0.0) for row in alone.rows]
    assert [done for done, _, _ in told] == [1, 2, 3, 4, 5, 6]


def test_a_policy_that_does_not_take_on_the_model_is_a_row_with_its_reason() -> None:
    job = _job()
    tasks = tuple(replace(task, kind="") for task in job.usual.problem.tasks)
    bare = replace(job.usual, problem=replace(job.usual.problem, tasks=tasks))
    (row,) = compare(replace(job, plannings=(bare,)), ("1MiB",), ("vdnn-conv",), FRESH).rows
    assert (row.status, row.overhead, row.slab_bytes) == ("refused", None, None)
    assert "kinds of layers" in row.message


def test_rows_are_remembered_by_content(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PLANC_CACHE_DIR", str(tmp_path))
    kept = Effort(time_limit_s=5.0)
    (first,) = compare(_job(), ("1MiB",), ("keep-all",), kept).rows
    tried: list[object] = []
    monkeypatch.setattr(trials, "attempt", lambda *a: tried.append(a))
    assert compare(_job(), ("1MiB",), ("keep-all",), kept).rows == (first,)
    assert not tried
    for effort in (replace(kept, seed=1), replace(kept, time_limit_s=6.0), replace(kept, remember=False)):
        with pytest.raises(TypeError):  # tried anew: the stand-in returns nothing
            compare(_job(), ("1MiB",), ("keep-all",), effort)
    assert len(tried) == 3


def test_plans_are_run_beside_the_unplanned_step_on_request() -> None:
    row, none = compare(_job(), ("1MiB", "10%"), ("keep-all",), replace(FRESH, run_steps=3)).rows
    assert row.bitwise_equal is True
    assert row.measured_step_ns is not None
    assert row.measured_step_ns > 0
    assert row.measured_unplanned_ns is not None
    assert row.measured_peak_bytes is not None
    assert row.measured_peak_bytes <= row.budget_bytes
    assert row.prediction_error == row.measured_step_ns / row.predicted_step_ns - 1
    assert (none.measured_step_ns, none.prediction_error) == (None, None)


def test_no_row_is_slower_than_one_of_less_memory() -> None:
    def row(budget: int, step: int | None, solver: str = "mip", gap: float | None = None) -> Row:
        return Row(solver, budget, "feasible" if step else "timeout", 0.1 * budget, step, gap=gap, slab_bytes=budget)

    given = [row(300, 70, gap=0.5), row(200, 50, gap=0.3), row(400, None), row(200, 60, "other"), row(100, 80, gap=0.2)]
    found = trials.never_slower(given)
    # The plan of 200 bytes, with the bound of 35 ns that was proved for 300; nothing was proved for 400.
    assert found[0] == replace(given[1], budget_bytes=300, gap=pytest.approx(0.3), solve_s=30.0)
    assert found[2] == replace(given[1], budget_bytes=400, gap=1.0, solve_s=40.0)
    assert [found[1], found[3], found[4]] == [given[1], given[3], given[4]]


@pytest.mark.parametrize("jobs", [1, 2])
def test_whatever_order_trials_are_made_in_rows_are_never_slower(jobs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [Trial(budget, "mip") for budget in (300, 100, 200)]
    steps = {300: 70, 100: 60, 200: 50}

    def compiled(*_: object) -> Iterator[tuple[Trial, Row, None]]:
        for trial in made:
            yield trial, Row("mip", trial.budget_bytes, "feasible", 1.0, steps[trial.budget_bytes], gap=0.5), None

    monkeypatch.setattr(trials, "_compiled", compiled)
    rows = trials.rows_of(_job(), made, replace(FRESH, jobs=jobs))
    assert [(row.budget_bytes, row.predicted_step_ns) for row in rows] == [(300, 50), (100, 60), (200, 50)]


def test_the_front_joins_plans_than_which_none_is_smaller_and_faster() -> None:
    def row(slab: int, overhead: float | None) -> Row:
        return Row("x", 100, "feasible", 0.0, 1000, overhead, slab_bytes=slab if overhead is not None else None)

    rows = [row(50, 0.1), row(40, 0.2), row(60, 0.1), row(45, 0.3), row(70, 0.05), row(10, None), row(40, 0.25)]
    assert [(r.slab_bytes, r.overhead) for r in pareto_front(rows)] == [(40, 0.2), (50, 0.1), (70, 0.05)]


def test_the_picture_has_a_ring_where_a_plan_was_run() -> None:
    base = Row("x", 100, "feasible", 0.0, 1000, 0.1, slab_bytes=80)
    scene = scatter_scene([base, replace(base, solver="y", measured_step_ns=1500, slab_bytes=70)], 100)
    plain, run = (series.marks[0] for series in scene.series)
    assert plain.measured_y is None
    assert run.measured_y is not None
    assert run.measured_y < run.y  # slower is higher
    assert "measured" in run.tip
    assert scene.front.count("L") == 0  # y is smaller and as fast
