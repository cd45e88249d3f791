"""The committed comparison of policies: complete rows, and planc's own planner never slower nor without a plan."""

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "policies.json"
NAMES = {
    "ResNet-50": "resnet50",
    "Inception-v4": "inception_v4",
    "BERT-base": "bert_base",
    "VGG-16": "vgg16",
    "GPT-2 small": "gpt2",
    "Titan X": "titan-x-maxwell",
    "P100": "p100",
    "H100": "h100",
}
"""The README's words for networks and cards."""
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


def test_the_readme_tells_the_committed_rows(rows: list[dict[str, Any]]) -> None:
    lines = re.findall(
        r"^\| (.+), batch (\d+) \| (.+) \| (\d+) % \| (.+) \| (.+) \|$", (ROOT / "README.md").read_text(), re.M
    )
    assert lines
    for network, batch, card, share, ours, best in lines:
        place = (NAMES[network], int(batch), NAMES[card], int(share) / 100)
        mine = [r for r in rows if (r["network"], r["batch"], r["card"], r["budget_fraction"]) == place]
        others = [(r["overhead"], r["solver"]) for r in mine if r["solver"] != "mip" and r["overhead"] is not None]
        assert [f"{100 * r['overhead']:+.1f} %" for r in mine if r["solver"] == "mip"] == [ours]
        assert best == (f"{100 * min(others)[0]:+.1f} % (`{min(others)[1]}`)" if others else "no plan")
