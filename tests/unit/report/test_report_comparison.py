"""Comparing solvers: budgets and names read, rows as the contract says, infeasible ones among them."""

import json

import pytest
from support.costs import made_up_costs
from support.networks import mlp

from planc.compiler.budget import budget_bytes, planning_problem
from planc.compiler.job import CompileJob, compile_model
from planc.compiler.options import CompileOptions
from planc.errors import UsageError
from planc.report import comparison
from planc.report.comparison import compare, parse_budgets, parse_solvers
from planc.report.trials import Effort

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
    assert row.budget_bytes == budget_bytes("min", planning_problem(imported.graph, costs), costs)
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
