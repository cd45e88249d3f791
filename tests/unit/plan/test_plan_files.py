"""Plan files: read back as written, refused when damaged, described by a published schema."""

import json
from pathlib import Path

import pytest
from support import networks
from support.plans import random_plan

from planc.errors import OutputError, PlanError
from planc.plan.codec import encoded, schema
from planc.plan.plan import Plan

SCHEMA = Path(__file__).parents[3] / "docs" / "plan.schema.json"


def test_a_plan_survives_the_file(tmp_path: Path) -> None:
    plan = random_plan(networks.cnn(), 1)
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_plan_is_refused(tmp_path: Path, share: float) -> None:
    data = encoded(random_plan(networks.cnn(), 1))
    path = tmp_path / "cut.json"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(PlanError, match=r"cut\.json.*" + ("truncated" if share else "an empty file")):
        Plan.load(path)


def test_another_format_is_refused(tmp_path: Path) -> None:
    raw = json.loads(encoded(random_plan(networks.cnn(), 1)))
    (tmp_path / "p.json").write_text(json.dumps(raw | {"format": 99}))
    with pytest.raises(PlanError, match="plan format 99"):
        Plan.load(tmp_path / "p.json")


def test_a_wrong_type_is_named(tmp_path: Path) -> None:
    raw = json.loads(encoded(random_plan(networks.cnn(), 1)))
    raw["residencies"][0]["offset"] = "zero"
    (tmp_path / "p.json").write_text(json.dumps(raw))
    with pytest.raises(PlanError, match=r"residencies\[0\]\.offset"):
        Plan.load(tmp_path / "p.json")


def test_a_missing_plan_and_a_missing_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"none\.json: no such plan"):
        Plan.load(tmp_path / "none.json")
    with pytest.raises(OutputError, match="cannot be written"):
        random_plan(networks.cnn(), 1).save(tmp_path / "no" / "p.json")


def test_the_published_schema_is_the_current_one() -> None:
    assert json.loads(SCHEMA.read_text()) == schema(Plan)
