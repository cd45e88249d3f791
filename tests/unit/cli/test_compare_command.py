"""`planc compare`: rows on stdout, the page on request, errors as messages."""

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from support.costs import made_up_costs
from support.networks import mlp

from planc.compiler.budget import planning_problem
from planc.costs.store import write_costs

Planc = Callable[..., tuple[int, str, str]]


@pytest.fixture
def train(tmp_path: Path) -> Path:
    """A training graph with its costs beside it."""
    path = tmp_path / "train.onnx"
    onnx.save(mlp().file.proto, path)
    write_costs(made_up_costs(mlp().graph, scratch=1 << 10), tmp_path / "costs.json")
    return path


def _compare(planc: Planc, train: Path, *more: object) -> tuple[int, str, str]:
    return planc("compare", train, "--costs", train.parent / "costs.json", "--time-limit", "5", *more)


def test_json_has_a_row_for_each_solver_and_budget(planc: Planc, train: Path) -> None:
    code, out, err = _compare(planc, train, "--budgets", "1MiB,5%", "--solvers", "keep-all", "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    peak = planning_problem(mlp().graph, made_up_costs(mlp().graph, scratch=1 << 10)).liveness_peak_bytes
    assert result["liveness_peak_bytes"] == peak
    assert [(r["solver"], r["budget_bytes"], r["status"]) for r in result["rows"]] == [
        ("keep-all", 1 << 20, "optimal"),
        ("keep-all", peak * 5 // 100, "infeasible"),
    ]


def test_table_and_page(planc: Planc, train: Path, tmp_path: Path) -> None:
    page = tmp_path / "compare.html"
    code, out, err = _compare(planc, train, "--budgets", "1MiB", "--solvers", "keep-all", "--html", page)
    assert code == 0
    assert "keep-all" in out
    assert "1.0 MiB" in out
    assert err.strip() == f"wrote {page}"
    assert "keep-all in 1.0 MiB: optimal" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--budgets", ","), "--budgets"),
        (("--budgets", "many"), "size 'many'"),
        (("--budgets", "50%", "--solvers", "best"), "unknown solver 'best'"),
    ],
)
def test_usage_errors(planc: Planc, train: Path, options: tuple[str, ...], message: str) -> None:
    code, out, err = _compare(planc, train, *options)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_costs_of_another_model_are_a_mismatch(planc: Planc, train: Path) -> None:
    table = made_up_costs(mlp().graph)
    table = type(table)(
        model_hash="0" * 64, device=table.device, unique=table.unique, layers=table.layers, link=table.link
    )
    write_costs(table, train.parent / "costs.json")
    code, out, err = _compare(planc, train, "--budgets", "50%", "--solvers", "keep-all")
    assert (code, out) == (7, "")
    assert "another model" in err


def test_the_error_of_one_policy_is_not_told_as_the_smallest_budget_of_all(planc: Planc, train: Path) -> None:
    options = ("--costs", train.parent / "costs.json", "--budget", "90%", "-o", train.parent / "plan.json")
    code, _, err = planc("compile", train, *options, "--solver", "keep-all")
    assert code == 4
    assert "keep-all needs" in err
    assert "smallest feasible" not in err
