"""`planc costs`: tables for people, JSON, and the model that a table belongs to."""

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import onnx
import pytest
from support.costs import made_up_costs
from support.networks import mlp

from planc.costs.store import write_costs

Planc = Callable[..., tuple[int, str, str]]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A cost table that names its model, beside it."""
    onnx.save(mlp().file.proto, tmp_path / "train.onnx")
    costs = msgspec.structs.replace(made_up_costs(mlp().graph), model_file="train.onnx")
    write_costs(costs, tmp_path / "costs.json")
    return tmp_path / "costs.json"


def test_json_has_layers_and_kinds(planc: Planc, table: Path) -> None:
    code, out, err = planc("costs", table, "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert sum(kind["layers"] for kind in result["kinds"]) == len(result["layers"])
    assert sum(k["forward_ns"] for k in result["kinds"]) == sum(layer["forward_ns"] for layer in result["layers"])
    assert {
        "name",
        "kind",
        "forward_ns",
        "backward_ns",
        "out_ns",
        "in_ns",
        "saved_bytes",
        "remake_ns",
        "cheaper",
    } <= set(result["layers"][0])


def test_text_names_kinds_and_layers(planc: Planc, table: Path) -> None:
    code, out, _ = planc("costs", table, "--all")
    assert code == 0
    assert "by kind of layer" in out
    kinds = json.loads(planc("costs", table, "--json")[1])["kinds"]
    assert all(kind["kind"][:8] in out for kind in kinds)


def test_a_table_without_its_model_says_what_to_do(planc: Planc, table: Path) -> None:
    write_costs(made_up_costs(mlp().graph), table)
    code, out, err = planc("costs", table)
    assert (code, out) == (2, "")
    assert "--model" in err
    assert planc("costs", table, "--model", table.parent / "train.onnx")[0] == 0


def test_another_model_is_a_mismatch(planc: Planc, table: Path) -> None:
    other = msgspec.structs.replace(made_up_costs(mlp().graph), model_hash="0" * 64, model_file="train.onnx")
    write_costs(other, table)
    code, _, err = planc("costs", table)
    assert code == 7
    assert "another model" in err
