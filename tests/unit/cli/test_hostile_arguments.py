"""Numbers and files that a command line may name and nothing can be made of: one message that says what was expected."""

import os
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from support import networks
from support.costs import made_up_costs
from support.zoo_networks import small_forward

from planc.costs.store import write_costs
from planc.importer.import_model import import_model

Planc = Callable[..., tuple[int, str, str]]
LONG = "9" * 5000


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    onnx.save(networks.mlp().file.proto, "train.onnx")
    write_costs(made_up_costs(import_model("train.onnx").graph), Path("costs.json"))
    (tmp_path / "buffers.csv").write_text("id,lower,upper,size\na,0,2,8\n")
    return tmp_path


COMPILE = ("compile", "train.onnx", "--costs", "costs.json", "--solver", "keep-all", "-o", "n.json")
ZOO = ("zoo", "build", "mlp", "-o", "z.onnx")


@pytest.mark.parametrize(
    "arguments",
    [
        *((*COMPILE, "--budget", size) for size in (LONG, "1e99", "nan", "inf", "²", "٣%", "-5", "1e400", "")),
        *((*COMPILE, "--time-limit", seconds) for seconds in ("inf", "1e400", "nan", "-1", "0", "x")),
        *((*COMPILE, "--gap", gap) for gap in ("nan", "inf", "-1", "100%", "²%")),
        (*COMPILE, "--host-memory", LONG),
        ("pack", "buffers.csv", "--capacity", LONG),
        ("pack", "buffers.csv", "--time-limit", "inf"),
        *((*ZOO, "--depth", number) for number in ("1000000000", LONG, "0")),
        (*ZOO, "--width", str(2**31)),
        (*ZOO, "--seed", "-1"),
    ],
)
def test_a_number_that_is_none_is_a_usage_error(here: Path, planc: Planc, arguments: tuple[str, ...]) -> None:
    code, out, message = planc(*arguments)
    assert (code, out) == (2, "")
    assert "internal error" not in message
    assert not (here / "n.json").exists()


@pytest.mark.parametrize("binding", ["batch=²", "batch=٣", f"batch={LONG}", "batch=0", "=3", "batch=-1", "batch= 3"])
def test_a_dimension_that_is_none_is_a_usage_error(here: Path, planc: Planc, binding: str) -> None:
    onnx.save(small_forward("mlp").model, here / "forward.onnx")
    code, _, message = planc("grad", "forward.onnx", "--loss", "mse", "--dim", binding, "-o", "g.onnx")
    assert (code, "expected name=size" in message) == (2, True)


@pytest.mark.parametrize("command", ["compile", "estimate"])
def test_a_model_larger_than_memory_is_refused_unread(here: Path, planc: Planc, command: str) -> None:
    (here / "big.onnx").touch()
    os.truncate(here / "big.onnx", 1 << 42)
    code, _, message = planc(command, "big.onnx")
    assert (code, "not a readable ONNX model" in message) == (3, True)


def test_memory_that_is_not_there_is_said_so(here: Path, planc: Planc, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("planc.zoo.build_step", refuse)
    code, _, message = planc(*ZOO)
    assert (code, "not enough memory" in message) == (7, True)
    assert not (here / "z.onnx").exists()
