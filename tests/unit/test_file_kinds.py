"""A file of another kind is named for what it is, whatever was to be read from it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors.numpy import save_file
from support.costs import made_up_costs
from support.networks import mlp

import planc
from planc.costs.store import read_costs, write_costs
from planc.errors import PlancError
from planc.importer.load import read_model
from planc.instances.instance import read_instance
from planc.packing.csv import read_buffers
from planc.runtime.state import read_state

READERS: dict[str, Callable[[Path], object]] = {
    "plan": planc.Plan.load,
    "cost table": read_costs,
    "ONNX model": read_model,
    "graph instance": read_instance,
    "table of buffers": read_buffers,
    "safetensors file": read_state,
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One real file of each kind."""
    folder = tmp_path_factory.mktemp("kinds")
    found = {name: folder / name.replace(" ", "_") for name in READERS}
    onnx.save(mlp().file.proto, found["ONNX model"])
    write_costs(made_up_costs(mlp().graph), found["cost table"])
    planc.compile(found["ONNX model"], costs=found["cost table"], budget="200%", solver="keep-all").save(found["plan"])
    nodes = [{"id": i, "cost": 1, "bytes": 8} for i in range(2)]
    found["graph instance"].write_text(json.dumps({"name": "two", "nodes": nodes, "edges": [[0, 1]]}))
    found["table of buffers"].write_text("id,lower,upper,size\na,0,1,8\n")
    save_file({"w": np.zeros(2, np.float32)}, found["safetensors file"])
    return found


@pytest.mark.parametrize("wanted", READERS)
@pytest.mark.parametrize("given", READERS)
def test_each_reader_names_each_kind(files: dict[str, Path], wanted: str, given: str) -> None:
    if wanted == given:
        READERS[wanted](files[given])
        return
    with pytest.raises(PlancError, match=f"{files[given].name} is an? {given}, not an? {wanted}"):
        READERS[wanted](files[given])


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "an empty file"),
        (b"PK\3\4rest", "a zip archive"),
        (b"\x80\4rest", "a pickle"),
        (b"\x1f\x8brest", "a gzip file"),
        (b"<!DOCTYPE html><p>", "an HTML page"),
    ],
)
def test_files_of_other_programs(tmp_path: Path, content: bytes, kind: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(PlancError, match=f"file is {kind}"):
        planc.Plan.load(path)


@pytest.mark.parametrize("content", [b"{", b"nonsense", b"{}", b'{"format": 1}', bytes(range(256))])
def test_what_is_of_no_kind_keeps_its_reason(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(PlancError, match=r"file: not a readable plan \("):
        planc.Plan.load(path)


def test_a_truncated_plan_is_still_called_a_plan(tmp_path: Path, files: dict[str, Path]) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(files["plan"].read_bytes()[:-40])
    with pytest.raises(PlancError, match="not a readable plan .perhaps truncated"):
        planc.Plan.load(path)


def test_importing_planc_keeps_onnx_runtime_from_writing_to_the_home_folder(tmp_path: Path) -> None:
    code = "import planc.runtime.ort.sessions as s, onnxruntime as o; o.SessionOptions(); s.prepare_threads()"
    home = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    subprocess.run([sys.executable, "-c", code], check=True, env=home)
    assert list(tmp_path.rglob("*onnxruntime*")) == []
    subprocess.run([sys.executable, "-c", code], check=True, env={**home, "ORT_DISABLE_TELEMETRY": "0"})
    assert list(tmp_path.rglob("*onnxruntime*"))
