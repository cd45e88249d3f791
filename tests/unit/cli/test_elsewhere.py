"""A plan written to another folder than its model's is run without naming the model; one from elsewhere is not followed."""

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from support.costs import made_up_costs
from support.networks import mlp

from planc.costs.store import write_costs

Planc = Callable[..., tuple[int, str, str]]


@pytest.fixture
def plan(planc: Planc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A plan in one folder, its model in another."""
    monkeypatch.setenv("PLANC_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "models").mkdir()
    (tmp_path / "plans").mkdir()
    onnx.save(mlp().file.proto, tmp_path / "models" / "train.onnx")
    write_costs(made_up_costs(mlp().graph), tmp_path / "costs.json")
    path = tmp_path / "plans" / "plan.json"
    options = ("--costs", tmp_path / "costs.json", "--budget", "200%", "--solver", "keep-all", "-o", path)
    assert planc("compile", tmp_path / "models" / "train.onnx", *options)[0] == 0
    return path


def test_the_model_is_found_where_it_was(planc: Planc, plan: Path) -> None:
    code, out, _ = planc("verify", plan, "--json")
    assert (code, json.loads(out)["valid"]) == (0, True)
    assert planc("run", plan, "--steps", "1", "--host-tier", "ram")[0] == 0


def test_a_model_that_is_gone_or_another_by_now_is_told(planc: Planc, plan: Path, tmp_path: Path) -> None:
    model = tmp_path / "models" / "train.onnx"
    other = onnx.load(model)
    other.graph.node.pop()
    model.unlink()
    code, _, err = planc("verify", plan)
    assert code == 3
    assert "train.onnx; give the model with --model" in err
    onnx.save(other, model)
    assert planc("verify", plan)[0] in (3, 6)


def test_without_a_note_the_model_is_asked_for(
    planc: Planc, plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANC_CACHE_DIR", str(tmp_path / "empty"))
    code, _, err = planc("run", plan)
    assert (code, "give the model with --model" in err) == (3, True)
    assert planc("verify", plan, "--model", tmp_path / "models" / "train.onnx")[0] == 0
