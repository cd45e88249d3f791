"""The committed comparison of policies: complete rows, and planc's own planner never slower nor without a plan."""

import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
from policies import violations  # noqa: E402

FIELDS = {"network", "card", "solver", "budget_fraction", "status", "overhead", "slab_bytes", "solve_s"}


@pytest.fixture(scope="module")
def rows() -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads((BENCHMARKS / "results" / "policies.json").read_text())["rows"]
    return found


def test_rows_have_their_fields_and_plans_their_numbers(rows: list[dict[str, object]]) -> None:
    assert rows
    for row in rows:
        assert row.keys() >= FIELDS
        planned = row["status"] in ("optimal", "feasible")
        assert (row["overhead"] is not None) == (row["slab_bytes"] is not None) == planned


def test_mip_is_never_slower_and_never_without_a_plan(rows: list[dict[str, object]]) -> None:
    points = {(r["network"], r["card"], r["budget_fraction"]) for r in rows}
    assert {(r["network"], r["card"], r["budget_fraction"]) for r in rows if r["solver"] == "mip"} == points
    assert violations(rows) == []


def test_a_violation_would_be_found(rows: list[dict[str, object]]) -> None:
    point = {"network": "x", "card": "y", "budget_fraction": 0.5}
    slower = [{**point, "solver": "mip", "overhead": 0.2}, {**point, "solver": "dtr", "overhead": 0.1}]
    missing = [{**point, "solver": "mip", "overhead": None}, {**point, "solver": "dtr", "overhead": 0.1}]
    assert len(violations(slower)) == len(violations(missing)) == 1
