"""Which operator forms graphs have where nobody names any: oneDNN's where it is installed, else standard operators."""

from pathlib import Path

import onnx
import pytest
from typer.testing import CliRunner

from planc.cli.main import app
from planc.kernels import DOMAIN
from planc.libraries import onednn_path
from planc.profiling.target import forms_of, target_of

pytestmark = pytest.mark.skipif(onednn_path() is None, reason="onednn-cpu-gomp is not installed")


def test_a_cpu_has_those_of_the_library_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planc.profiling.target.preferred_device", lambda: target_of("cpu").kind)
    assert (forms_of("auto"), forms_of("cpu"), target_of("cpu").forms) == ("onednn", "cpu", "onednn")
    monkeypatch.setattr("planc.training.emit.forms.onednn_path", lambda: None)
    assert (forms_of("auto"), forms_of("onednn"), target_of("cpu").forms) == ("cpu", "onednn", "cpu")


@pytest.mark.parametrize(("given", "domains"), [((), {"", DOMAIN}), (("--device", "cpu"), {""})])
def test_zoo_build_writes_them(
    given: tuple[str, ...], domains: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("planc.profiling.target.preferred_device", lambda: target_of("cpu").kind)
    path = tmp_path / "net.onnx"
    sizes = ["--batch", "1", "--image", "32", "--classes", "4"]
    assert CliRunner().invoke(app, ["zoo", "build", "squeezenet", *sizes, *given, "-o", str(path)]).exit_code == 0
    assert {node.domain for node in onnx.load(path).graph.node} == domains
