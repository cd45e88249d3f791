"""Problems that are rare on a machine that works, and what is told of them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from support.costs import made_up_costs
from support.networks import mlp

import planc.runtime.measure as measure_module
from planc.costs.store import write_costs
from planc.errors import DeviceError
from planc.runtime.cuda import driver, pieces, report

Planc = Callable[..., tuple[int, str, str]]


def test_differing_bits_end_with_exit_code_6(planc: Planc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx.save(mlp().file.proto, tmp_path / "train.onnx")
    write_costs(made_up_costs(mlp().graph), tmp_path / "costs.json")
    options = ("--costs", tmp_path / "costs.json", "--budget", "200%", "--solver", "keep-all")
    assert planc("compile", tmp_path / "train.onnx", *options)[0] == 0
    measured = measure_module.measure

    def differing(*arguments: Any) -> Any:
        return replace(measured(*arguments), differing_values=3, first_differing="'w' (layer 'fc update')")

    monkeypatch.setattr(measure_module, "measure", differing)
    code, out, err = planc("run", tmp_path / "train.plan.json", "--compare", "--steps", "1", "--host-tier", "ram")
    assert (code, "DIFFERENT" in out) == (6, True)
    assert "3 values differ from the unplanned run, first in 'w' (layer 'fc update')" in " ".join(err.split())


def test_without_a_driver_cuda_is_not_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "driver", None)
    with pytest.raises(DeviceError, match="CUDA is not usable: the package cuda-bindings is missing"):
        driver.call("cuInit", 0)


@pytest.mark.parametrize("first", range(len(pieces.PIECES)))
def test_doctor_names_the_first_missing_piece_alone(planc: Planc, monkeypatch: pytest.MonkeyPatch, first: int) -> None:
    """All pieces before it are there, all after it are not."""
    known = tuple(replace(p, is_missing=lambda i=i: i >= first) for i, p in enumerate(pieces.PIECES))
    monkeypatch.setattr(pieces, "PIECES", known)
    found = report.examine()
    assert (found.usable, found.lacks, found.remedy) == (False, known[first].name, known[first].remedy)
    _, out, _ = planc("doctor")
    line = next(line for line in out.splitlines() if line.startswith("cuda "))
    assert line == f"cuda       not usable: {known[first].name} is missing"
    assert out.count("to do") == 1
    assert known[first].remedy in out
