"""What `import planc` offers."""

from importlib.util import find_spec
from pathlib import Path

import onnx
import pytest
from support.networks import mlp

import planc


@pytest.mark.parametrize("name", planc.__all__)
def test_no_module_takes_the_place_of_a_public_name(name: str) -> None:
    assert find_spec(f"planc.{name}") is None


def test_functions_are_still_functions_once_everything_is_imported(tmp_path: Path) -> None:
    path = tmp_path / "mlp.onnx"
    onnx.save(mlp().file.proto, path)
    plan = planc.compile(path, budget="200%", device="t4", solver="keep-all")
    assert planc.verify(plan, path) == ()
    assert planc.compile(path, budget="200%", device="t4", solver="keep-all").memory == plan.memory
