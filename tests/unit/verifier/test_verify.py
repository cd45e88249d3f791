"""What is said of a plan that is not valid."""

from importlib import import_module
from types import SimpleNamespace

import pytest
from support.networks import mlp
from support.plans import random_plan

from planc.errors import VerificationError
from planc.verifier.verify import require_valid, verify
from planc.verifier.violation import Violation

MODULE = import_module("planc.verifier.verify")  # by its name, which the package's function hides


@pytest.mark.parametrize(("count", "shown", "more"), [(1, 1, 0), (5, 5, 0), (6, 5, 1), (9, 5, 4)])
def test_the_first_violations_are_shown_and_the_others_counted(
    monkeypatch: pytest.MonkeyPatch, count: int, shown: int, more: int
) -> None:
    found = tuple(Violation("kind", f"place {i}", "why") for i in range(count))
    monkeypatch.setattr(MODULE, "verify", lambda *_: found)
    with pytest.raises(VerificationError) as caught:
        require_valid(mlp().graph, random_plan(mlp(), 0), "p.json")
    lines = [f"  kind: place {i}: why" for i in range(shown)] + [f"  and {more} more"] * bool(more)
    assert str(caught.value).splitlines() == ["p.json is not a valid plan for this model:", *lines]


def test_of_what_waits_for_ever_three_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("run 4", "copy 1", "copy 2", "copy 7")
    monkeypatch.setattr(MODULE, "happens_before", lambda _: SimpleNamespace(deadlocked=names))
    (violation,) = verify(mlp().graph, random_plan(mlp(), 0))
    assert (violation.kind, violation.where) == ("deadlock", "run 4")
    assert violation.explanation == "run 4, copy 1, copy 2 wait for something that never happens"
