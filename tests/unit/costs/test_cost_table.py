"""Cost tables: interpolation, files, and models they do not belong to."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import networks
from support.costs import made_up_costs

from planc.costs.store import read_costs, write_costs
from planc.costs.table import CopyPoint, Link
from planc.errors import DeviceError
from planc.planning.build import build_problem

LINK = Link(points=(CopyPoint(size=64, out_ns=10, in_ns=20), CopyPoint(size=4096, out_ns=100, in_ns=300),
                    CopyPoint(size=8192, out_ns=150, in_ns=400)))  # fmt: skip


def test_copy_times_between_and_beyond_the_measured_sizes() -> None:
    assert LINK.copy_ns(1) == (10, 20)
    assert LINK.copy_ns(4096) == (100, 300)
    assert LINK.copy_ns(6144) == (125, 350)
    assert LINK.copy_ns(81920) == (1500, 4000)


@given(st.integers(1, 10**7), st.integers(1, 10**7))
def test_a_larger_copy_never_takes_less_time(a: int, b: int) -> None:
    small, large = LINK.copy_ns(min(a, b)), LINK.copy_ns(max(a, b))
    assert small[0] <= large[0]
    assert small[1] <= large[1]


def test_a_table_survives_the_file(tmp_path: Path) -> None:
    table = made_up_costs(networks.cnn().graph)
    write_costs(table, tmp_path / "costs.json")
    assert read_costs(tmp_path / "costs.json") == table


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 99}', '{"format": 1}', "\x00"])
def test_a_damaged_table_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(DeviceError, match=r"bad\.json"):
        read_costs(tmp_path / "bad.json")


def test_a_truncated_table_is_refused(tmp_path: Path) -> None:
    write_costs(made_up_costs(networks.cnn().graph), tmp_path / "costs.json")
    data = (tmp_path / "costs.json").read_bytes()
    (tmp_path / "costs.json").write_bytes(data[: len(data) // 2])
    with pytest.raises(DeviceError, match="not a readable cost table"):
        read_costs(tmp_path / "costs.json")


def test_a_table_of_another_model_is_refused() -> None:
    with pytest.raises(DeviceError, match="another model"):
        build_problem(networks.cnn().graph, made_up_costs(networks.mlp().graph))


def test_the_file_is_readable_json(tmp_path: Path) -> None:
    write_costs(made_up_costs(networks.mlp().graph), tmp_path / "costs.json")
    raw = json.loads((tmp_path / "costs.json").read_text())
    assert raw["model_hash"] == networks.mlp().graph.content_hash
