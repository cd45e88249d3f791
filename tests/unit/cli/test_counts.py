"""A model has one number of layers and operators, whichever command tells it."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from support.zoo_networks import SMALL

from planc.zoo import families

Planc = Callable[..., tuple[int, str, str]]

NETWORKS = ["mlp", "squeezenet", "gpt2"]


def counted(text: str) -> tuple[int, int]:
    """The first `192 layers, 1,300 operators` of a text."""
    found = re.search(r"([\d,]+) layers, ([\d,]+) operators", text)
    assert found, text
    layers, operators = (int(part.replace(",", "")) for part in found.groups())
    return layers, operators


@pytest.mark.parametrize("name", NETWORKS)
def test_build_estimate_compile_and_inspect_agree(planc: Planc, tmp_path: Path, name: str) -> None:
    """On a card, element-wise operators are joined: what was joined still counts."""
    model, plan, sizes = tmp_path / "m.onnx", tmp_path / "m.plan.json", []
    options = [part for key, value in SMALL[name].items() for part in (f"--{key}", value)]
    sizes.append(counted(planc("zoo", "build", name, *options, "-o", model)[2]))
    sizes.append(counted(planc("estimate", model)[1]))
    compiled = planc("compile", model, "--device", "h100", "--solver", "keep-all", "--budget", "max", "-o", plan)
    sizes.append(counted(compiled[1]))
    sizes.append(counted(planc("inspect", plan)[1]))
    built = json.loads(planc("zoo", "build", name, *options, "-o", model, "--json")[1])
    sizes.append((built["layers"], built["operators"]))
    assert len(set(sizes)) == 1, sizes


def test_the_list_counts_what_is_built(planc: Planc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {name: family for name, family in families().items() if name in ("mlp", "squeezenet")}
    monkeypatch.setattr("planc.zoo.families", lambda: few)
    for network in json.loads(planc("zoo", "list", "--json")[1])["networks"]:
        built = json.loads(planc("zoo", "build", network["name"], "-o", tmp_path / "m.onnx", "--json")[1])
        assert (built["layers"], built["operators"]) == (network["layers"], network["operators"])
