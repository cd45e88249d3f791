"""The comparison with PyTorch on a card, without one: what is measured again, and the order of the next commands."""

import json
import os
import subprocess
from argparse import Namespace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support.networks import mlp

GPU = Path(__file__).parents[3] / "benchmarks" / "gpu"


@pytest.fixture
def planc_steps(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(GPU))
    planc_steps = import_module("planc_steps")

    monkeypatch.setattr(planc_steps, "import_case", lambda _case: mlp())
    monkeypatch.setattr(planc_steps, "version_of", lambda _imported: "now")
    monkeypatch.setattr(planc_steps, "_costs", lambda *_: (_ for _ in ()).throw(AssertionError("profiled again")))
    return planc_steps


HEAD = {"step": "gpt2", "precision": "bf16"}


def test_rows_of_the_present_kernels_are_not_measured_again(planc_steps: ModuleType, tmp_path: Path) -> None:
    known = {"100 %": {"kernels": "now"}, "50 %": {"kernels": "before"}, "33 %": {}}
    options = Namespace(known=None, out=tmp_path)
    assert list(planc_steps.rows(HEAD, 100, known, ["100"], options)) == []
    for share in ("50", "33", "25"):
        with pytest.raises(AssertionError, match="profiled again"):
            list(planc_steps.rows(HEAD, 100, known, [share], options))


def test_failed_profiling_is_a_row(planc_steps: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planc_steps, "_costs", lambda *_: {"FAILED": "no card"})
    (row,) = planc_steps.rows(HEAD, 100, {}, ["50"], Namespace(known=None, out=tmp_path))
    assert row == {**HEAD, "system": "planc", "mode": "profile", "FAILED": "no card"}


def _commands(folder: Path, *numbers: str) -> list[list[str]]:
    """What `next_run` calls Python with."""
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    stub = tools / "python3"
    stub.write_text('#!/bin/sh\nprintf "%s\\n" "$*" >> "$CALLS"\n')
    stub.chmod(0o755)
    calls = folder / "calls"
    calls.unlink(missing_ok=True)
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "CALLS": str(calls)}
    subprocess.run([GPU / "next_run", folder / "rows", *numbers], check=True, env=environment, capture_output=True)
    return [line.split() for line in calls.read_text().splitlines()]


def test_the_next_commands_measure_known_steps_and_go_on_where_they_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(GPU))
    cases = import_module("card_networks").CASES

    committed = GPU / "results" / "head_to_head.json"
    peaks = {(r["step"], r["precision"]) for r in json.loads(committed.read_text()) if r["mode"] == "compile"}
    calls = _commands(tmp_path)
    assert len(calls) == 2
    for call in calls:
        given: dict[str, Any] = {name: call[call.index(name) + 1] for name in ("--steps", "--precisions", "--until")}
        assert given["--steps"] in cases
        assert (given["--steps"], given["--precisions"]) in peaks
        assert (given["--until"], call[call.index("--systems") + 1]) == ("480", "planc")
        assert call[call.index("--begin") + 1 : call.index("--systems")] == [str(committed)]
    begun = tmp_path / "rows" / "head_to_head.json"
    begun.write_text("[]")
    (again,) = _commands(tmp_path, "2")
    assert again[again.index("--begin") + 1 : again.index("--systems")] == [str(committed), str(begun)]
    assert again[again.index("--steps") + 1] == calls[1][calls[1].index("--steps") + 1]
