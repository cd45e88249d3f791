"""Ctrl-C: exit code 130, one line that says what was kept, and a search ends with the best plan so far."""

import json
import signal
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from support.costs import made_up_costs
from support.networks import mlp

from planc.clock import WALL, StoppableClock
from planc.costs.store import write_costs
from planc.plan.plan import Plan

Planc = Callable[..., tuple[int, str, str]]


@pytest.fixture
def train(tmp_path: Path) -> Path:
    path = tmp_path / "train.onnx"
    onnx.save(mlp().file.proto, path)
    write_costs(made_up_costs(mlp().graph), tmp_path / "costs.json")
    return path


def _compile(planc: Planc, train: Path, policy: str, *more: object) -> tuple[int, str, str]:
    costs = ("--costs", train.parent / "costs.json", "--budget", "200%", "--time-limit", "3600")
    return planc("compile", train, *costs, "--solver", f"support.interrupting:{policy}", *more)


def test_a_search_that_is_interrupted_keeps_its_plan(planc: Planc, train: Path) -> None:
    code, out, err = _compile(planc, train, "Searching")
    plan = train.with_suffix(".plan.json")
    assert code == 130
    assert "stopping with the best plan so far" in err
    assert err.endswith(f"planc: interrupted; the best plan so far was kept in {plan}\n")
    assert "budget" in out
    assert Plan.load(plan).memory.slab_bytes > 0


def test_the_json_object_says_that_it_was_interrupted(planc: Planc, train: Path) -> None:
    code, out, _ = _compile(planc, train, "Searching", "--json")
    assert (code, json.loads(out)["interrupted"]) == (130, True)


@pytest.mark.parametrize("policy", ["Twice", "Silent"])
def test_the_second_interrupt_and_one_before_the_search_write_nothing(planc: Planc, train: Path, policy: str) -> None:
    code, out, err = _compile(planc, train, policy)
    assert (code, out) == (130, "")
    assert err.endswith("planc: interrupted; no plan was written\n")
    assert not train.with_suffix(".plan.json").exists()


def test_an_interrupted_comparison_says_that_it_goes_on(planc: Planc, train: Path) -> None:
    options = ("--costs", train.parent / "costs.json", "--budgets", "200%", "--solvers", "support.interrupting:Silent")
    code, out, err = planc("compare", train, *options)
    assert (code, out) == (130, "")
    assert "the same command goes on from there" in err
    assert planc("compare", train, *options, "--fresh")[2].endswith("interrupted; nothing is kept\n")


def test_the_handler_of_interrupts_is_put_back(planc: Planc, train: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    _compile(planc, train, "Twice")
    assert signal.getsignal(signal.SIGINT) is before


def test_time_that_is_skipped_ends_what_was_limited_and_nothing_after() -> None:
    clock = StoppableClock()
    ends = clock.now() + 3600
    clock.skip(4000)
    assert clock.now() > ends
    assert clock.now() + 3600 > clock.now()
    with clock.stopped():
        at = clock.now()
        clock.skip(10)
        assert clock.now() == at + 10
    assert clock.now() >= at + 10
    assert WALL.now() <= WALL.now()
