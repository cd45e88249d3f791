"""The committed comparison of policies: complete rows, and planc's own planner never slower nor without a plan."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "policies.json"
FIELDS = {"network", "card", "solver", "budget_fraction", "status", "overhead", "slab_bytes", "solve_s"}


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(RESULTS.read_text())["rows"]
    return found


def test_rows_have_their_fields_and_plans_their_numbers(rows: list[dict[str, Any]]) -> None:
    assert rows
    for row in rows:
        assert row.keys() >= FIELDS
        planned = row["status"] in ("optimal", "feasible")
        assert (row["overhead"] is not None) == (row["slab_bytes"] is not None) == planned


def test_mip_is_never_slower_and_never_without_a_plan(rows: list[dict[str, Any]]) -> None:
    points: defaultdict[tuple[object, ...], dict[str, float | None]] = defaultdict(dict)
    for row in rows:
        points[row["network"], row["card"], row["budget_fraction"]][row["solver"]] = row["overhead"]
    for point, overheads in points.items():
        ours = overheads["mip"]
        for name, theirs in overheads.items():
            assert theirs is None or (ours is not None and ours <= theirs + 1e-6), (point, name)
