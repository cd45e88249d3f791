"""The replay accepts what the solver answers and names what is wrong with a changed answer."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from planc.cli.solve import answer_of
from planc.instances.instance import Bandwidths, read_instance
from planc.instances.replay import replay
from planc.schedule.solver import SolveOptions, solve
from planc_solvers.mip import Mip

INSTANCES = Path(__file__).parents[3] / "benchmarks" / "solver" / "instances"
INSTANCE, LAYERED = INSTANCES / "resnet50_train.json", INSTANCES / "random_layered_100.json"


def _solved(path: Path, link: Bandwidths | None, share: float) -> tuple[dict[str, Any], dict[str, Any], int]:
    read = read_instance(path, link)
    budget = int(read.peak_bytes * share)
    solution = solve(Mip(), read.with_budget(budget), SolveOptions(time_limit_s=1.0, workers=1))
    return json.loads(path.read_text()), dict(answer_of(read, solution, 1.0)), budget


@pytest.fixture(scope="module")
def recomputed() -> tuple[dict[str, Any], dict[str, Any], int]:
    return _solved(INSTANCE, None, 0.9)


@pytest.fixture(scope="module")
def swapped() -> tuple[dict[str, Any], dict[str, Any], int]:
    return _solved(LAYERED, Bandwidths(1e5, 1e5), 0.6)


def test_answers_are_accepted(
    recomputed: tuple[dict[str, Any], dict[str, Any], int], swapped: tuple[dict[str, Any], dict[str, Any], int]
) -> None:
    assert replay(*recomputed) == []
    assert replay(*swapped) == []
    assert len(recomputed[1]["sequence"]) > 353
    assert swapped[1]["copies"]


def _never_free(answer: dict[str, Any]) -> None:
    for entry in answer["sequence"]:
        entry["free"] = []


def _free_early(answer: dict[str, Any]) -> None:
    position = next(i for i, e in enumerate(answer["sequence"]) if e["node"] not in e["free"])
    answer["sequence"][position]["free"].append(answer["sequence"][position]["node"])


def _free_twice(answer: dict[str, Any]) -> None:
    entry = next(e for e in answer["sequence"] if e["free"])
    entry["free"].append(entry["free"][0])


def _skip_last(answer: dict[str, Any]) -> None:
    answer["sequence"].pop()


def _unknown(answer: dict[str, Any]) -> None:
    answer["sequence"][3]["node"] = "nowhere"


def _cheaper(answer: dict[str, Any]) -> None:
    answer["objective"] -= 1


def _lower_peak(answer: dict[str, Any]) -> None:
    answer["peak"] -= 1


def _bound_above(answer: dict[str, Any]) -> None:
    answer["bound"] = answer["objective"] * 1.01


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_never_free, "over the budget"),
        (_free_early, "not on the device"),
        (_free_twice, "not held"),
        (_skip_last, "never runs"),
        (_unknown, "nowhere"),
        (_cheaper, "objective"),
        (_lower_peak, "peak"),
        (_bound_above, "bound"),
    ],
)
def test_changed_answers_are_rejected(
    recomputed: tuple[dict[str, Any], dict[str, Any], int], change: Callable[[dict[str, Any]], None], named: str
) -> None:
    instance, answer, budget = copy.deepcopy(recomputed)
    change(answer)
    assert any(named in message for message in replay(instance, answer, budget))


@pytest.fixture(scope="module")
def formed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any], int]:
    """An instance in which the plain forms exceed the budget at some nodes."""
    instance = json.loads(INSTANCE.read_text())
    for node in instance["nodes"]:
        node |= {"scratch": node["bytes"], "alternatives": [{"name": "lean", "cost": node["cost"] + 1}]}
    path = tmp_path_factory.mktemp("formed") / "formed.json"
    path.write_text(json.dumps(instance))
    read = read_instance(path)
    budget = int(read.peak_bytes * 0.95)
    solution = solve(Mip(), read.with_budget(budget), SolveOptions(time_limit_s=1.0, workers=1))
    return instance, dict(answer_of(read, solution, 1.0)), budget


def test_answers_with_forms_are_accepted_and_changed_ones_rejected(
    formed: tuple[dict[str, Any], dict[str, Any], int],
) -> None:
    instance, answer, budget = formed
    assert replay(instance, answer, budget) == []
    assert set(answer["forms"]) == {"", "lean"}
    assert replay(instance, answer | {"forms": [""] * len(answer["forms"])}, budget)
    assert "quick" in replay(instance, answer | {"forms": ["quick"] * len(answer["forms"])}, budget)[0]


@pytest.mark.parametrize("direction", ["out", "in"])
def test_a_missing_copy_is_rejected(swapped: tuple[dict[str, Any], dict[str, Any], int], direction: str) -> None:
    instance, answer, budget = copy.deepcopy(swapped)
    index = next(i for i, c in enumerate(answer["copies"]) if c["direction"] == direction)
    del answer["copies"][index]
    assert replay(instance, answer, budget)
