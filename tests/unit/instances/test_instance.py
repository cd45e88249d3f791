"""Reading bare instances: published peaks, orders, and what is refused."""

import json
from pathlib import Path

import pytest

from planc.errors import ModelError
from planc.instances.instance import Bandwidths, read_instance

INSTANCES = Path(__file__).parents[3] / "benchmarks" / "solver" / "instances"
CHAIN = {
    "name": "chain",
    "nodes": [{"id": i, "name": f"n{i}", "cost": i + 0.5, "bytes": 10 * (i + 1), "backward": False} for i in range(3)],
    "edges": [[0, 1], [1, 2]],
    "order": [0, 1, 2],
}


def _write(path: Path, **changes: object) -> Path:
    path.write_text(json.dumps(CHAIN | changes))
    return path


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("vgg16_train", 15_825_108_992),
        ("resnet50_train", 38_059_356_160),
        ("random_layered_100", 46_319),
        ("random_layered_250", 146_840),
    ],
)
def test_peak_of_the_given_order_is_the_published_one(name: str, peak: int) -> None:
    assert read_instance(INSTANCES / f"{name}.json").peak_bytes == peak


def test_link_makes_values_swappable_at_its_bandwidth(tmp_path: Path) -> None:
    problem = read_instance(_write(tmp_path / "i.json"), Bandwidths(d2h=1e9, h2d=2e9)).problem
    assert [v.swappable for v in problem.values] == [True] * 3
    assert (problem.values[1].copy_out_ns, problem.values[1].copy_in_ns) == (20, 10)


_LEAN = {"name": "lean", "cost": 7, "scratch": 1.5}
_FORMED = {"id": 0, "cost": 5, "bytes": 10, "scratch": 20, "alternatives": [_LEAN]}


def test_scratch_and_alternatives_count_beside_the_output(tmp_path: Path) -> None:
    read = read_instance(_write(tmp_path / "i.json", nodes=[_FORMED], edges=[], order=None))
    assert [(f.name, f.duration_ns, f.working_bytes) for f in read.problem.tasks[0].forms] == [
        ("", 5000, 30),
        ("lean", 7000, 12),
    ]
    assert read.peak_bytes == 30


def test_a_missing_order_is_derived(tmp_path: Path) -> None:
    nodes = list(reversed(CHAIN["nodes"]))  # type: ignore[call-overload]
    read = read_instance(_write(tmp_path / "i.json", nodes=nodes, order=None))
    assert [node.id for node in read.nodes] == [0, 1, 2]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"nodes": []}, "no nodes"),
        ({"edges": [[0, 7]]}, "7"),
        ({"order": [0, 1]}, "order"),
        ({"order": [1, 0, 2]}, "before its input"),
        ({"edges": [[0, 1], [1, 0]], "order": None}, "cycle"),
        ({"nodes": [{"id": 0, "cost": -1, "bytes": 1}], "edges": [], "order": None}, "from 0 to"),
        ({"nodes": [{"id": 0, "cost": 1, "bytes": 1}] * 2, "edges": [], "order": None}, "same id"),
        ({"nodes": "many"}, "not a readable graph instance"),
        ({"nodes": [_FORMED | {"alternatives": [_LEAN, _LEAN]}], "edges": [], "order": None}, "names of their own"),
        ({"nodes": [_FORMED | {"alternatives": [_LEAN | {"scratch": -1}]}], "edges": [], "order": None}, "from 0 to"),
    ],
)
def test_what_is_not_an_instance_is_refused_by_name(tmp_path: Path, changes: dict[str, object], named: str) -> None:
    with pytest.raises(ModelError, match=named):
        read_instance(_write(tmp_path / "i.json", **changes))


def test_a_missing_or_truncated_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="No such file"):
        read_instance(tmp_path / "absent.json")
    (tmp_path / "half.json").write_text(json.dumps(CHAIN)[:40])
    with pytest.raises(ModelError, match="half.json"):
        read_instance(tmp_path / "half.json")
