"""`planc inspect`: every option, with and without the model, and errors as messages."""

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import onnx
import pytest
from support.networks import cnn, mlp
from support.plans import random_plan

from planc.report.memory import peak_of
from planc.report.view import view_of

Planc = Callable[..., tuple[int, str, str]]


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """A plan that names its model, which is not there."""
    made = random_plan(cnn(), 1)
    path = tmp_path / "cnn.plan.json"
    msgspec.structs.replace(made, model=msgspec.structs.replace(made.model, file="cnn.onnx")).save(path)
    return path


def test_summary_needs_no_model(planc: Planc, plan: Path) -> None:
    code, out, err = planc("inspect", plan)
    assert (code, err) == (0, "")
    assert "cnn.onnx" in out
    assert "decisions by cost" in out
    assert "\x1b" not in out


def test_json_is_one_object_with_what_was_asked_for(planc: Planc, plan: Path) -> None:
    onnx.save(cnn().file.proto, plan.parent / "cnn.onnx")
    code, out, err = planc("inspect", plan, "--tensor", "w1", "--at-peak", "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    peak = peak_of(view_of(random_plan(cnn(), 1)))
    assert result["peak_bytes"] == result["at_peak"]["bytes"] == peak.bytes
    assert [s["storage"] for s in result["at_peak"]["stays"]] == [s.storage for s in peak.residencies]
    assert result["tensor"]["content"] == "state"
    assert result["tensor"]["shape"] == [8, 3, 3, 3]
    readers = {title for stay in result["tensor"]["stays"] for title in stay["read_by"]}
    assert any("conv1" in title for title in readers)


def test_the_model_beside_the_plan_names_readers(planc: Planc, plan: Path) -> None:
    assert "read by" not in planc("inspect", plan, "--tensor", "w1")[1]
    onnx.save(cnn().file.proto, plan.parent / "cnn.onnx")
    assert "read by" in planc("inspect", plan, "--tensor", "w1")[1]
    onnx.save(mlp().file.proto, plan.parent / "cnn.onnx")
    assert "read by" not in planc("inspect", plan, "--tensor", "w1")[1]


def test_page_and_trace_are_written_and_announced_on_stderr(planc: Planc, plan: Path, tmp_path: Path) -> None:
    page, trace = tmp_path / "page.html", tmp_path / "trace.json"
    code, out, err = planc("inspect", plan, "--html", page, "--trace", trace, "--json")
    assert code == 0
    assert json.loads(out)["model"] == "cnn.onnx"
    assert err.split() == ["wrote", str(page), "wrote", str(trace)]
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert json.loads(trace.read_bytes())["traceEvents"]


def test_at_peak_and_tensor_replace_the_summary(planc: Planc, plan: Path) -> None:
    code, out, _ = planc("inspect", plan, "--at-peak")
    assert code == 0
    assert out.startswith("peak of")
    assert "decisions" not in out


def test_errors_say_what_to_do(planc: Planc, plan: Path, tmp_path: Path) -> None:
    code, out, err = planc("inspect", tmp_path / "none.json")
    assert (code, out) == (3, "")
    assert "planc compile" in err
    code, out, err = planc("inspect", plan, "--tensor", "w11")
    assert (code, out) == (2, "")
    assert "did you mean" in err
    onnx.save(mlp().file.proto, tmp_path / "mlp.onnx")
    code, out, err = planc("inspect", plan, "--model", tmp_path / "mlp.onnx")
    assert (code, out) == (3, "")
    assert "cnn.onnx" in err
    code, _, err = planc("inspect", plan, "--html", tmp_path / "no" / "page.html")
    assert code == 2
    assert "cannot be written" in err
    assert "Traceback" not in err
