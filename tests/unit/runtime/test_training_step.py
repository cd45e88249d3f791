"""A loaded step: feeds, outputs, state, files, and what happens when something is wrong."""

import threading
import warnings
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime
import pytest
from support import networks
from support.plans import random_plan

from planc.errors import DeviceError, FeedError, PlancWarning, PlanError, VerificationError
from planc.plan.plan import Plan
from planc.runtime.device import Engine
from planc.runtime.measure import UnplannedStep, measure, synthetic_feeds
from planc.runtime.step import TrainingStep, load


@pytest.fixture
def step():
    imported = networks.cnn()
    with load(random_plan(imported, 5), imported) as loaded:
        yield loaded


def _feeds(step: TrainingStep, seed: int = 0) -> dict[str, np.ndarray]:
    return synthetic_feeds(step.imported.graph, seed)


def test_outputs_can_be_named_as_with_onnxruntime(step: TrainingStep) -> None:
    loss, weight = step.run(["loss", step.imported.state_names["w1"]], _feeds(step))
    assert loss.shape == ()
    assert weight.tobytes() == step.state()["w1"].tobytes()


def test_a_missing_feed_is_named(step: TrainingStep) -> None:
    with pytest.raises(FeedError, match="input 'x' is missing"):
        step({"labels": _feeds(step)["labels"]})


def test_an_unknown_feed_or_output_is_named(step: TrainingStep) -> None:
    with pytest.raises(FeedError, match="unknown input 'extra'"):
        step(_feeds(step) | {"extra": np.zeros(1)})
    with pytest.raises(FeedError, match="unknown output 'nothing'"):
        step.run(["nothing"], _feeds(step))


def test_a_wrong_shape_or_type_is_named(step: TrainingStep) -> None:
    feeds = _feeds(step)
    with pytest.raises(FeedError, match=r"'x' has shape \[1, 3, 12, 12\] of float32, the model takes \[4, 3, 12, 12\]"):
        step(feeds | {"x": feeds["x"][:1]})
    with pytest.raises(FeedError, match="float64"):
        step(feeds | {"x": feeds["x"].astype(np.float64)})


def test_a_refused_feed_changes_nothing(step: TrainingStep) -> None:
    before = step.state()
    with pytest.raises(FeedError):
        step({})
    assert all(before[name].tobytes() == value.tobytes() for name, value in step.state().items())


def test_state_survives_a_file_and_training_goes_on_the_same(step: TrainingStep, tmp_path: Path) -> None:
    step(_feeds(step))
    step.save_state(tmp_path / "state.safetensors")
    first = step(_feeds(step, 1))["loss"]
    imported = step.imported
    with load(random_plan(imported, 6), imported) as other:
        other.load_state(tmp_path / "state.safetensors")
        assert other(_feeds(step, 1))["loss"].tobytes() == first.tobytes()


def test_scalar_state_survives_a_file(tmp_path: Path) -> None:
    imported = networks.adam_mlp()
    with load(random_plan(imported, 2), imported) as step:
        step.save_state(tmp_path / "s")
        step.load_state(tmp_path / "s")


def test_damaged_state_is_refused(step: TrainingStep, tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(b"garbage")
    with pytest.raises(FeedError, match="bad.*safetensors"):
        step.load_state(tmp_path / "bad")
    with pytest.raises(FeedError, match="missing"):
        step.set_state({})


def test_a_plan_for_another_model_is_refused() -> None:
    with pytest.raises(PlanError, match="was compiled for"):
        load(random_plan(networks.mlp(), 1), networks.cnn())


def test_an_altered_plan_is_refused_before_anything_runs() -> None:
    import msgspec

    imported = networks.cnn()
    plan = random_plan(imported, 3)
    altered = msgspec.structs.replace(plan, runs=plan.runs[::-1])
    with pytest.raises(VerificationError, match="not a valid plan"):
        load(altered, imported)


def test_the_file_tier_gives_the_same_bits_and_leaves_nothing(tmp_path: Path) -> None:
    imported = networks.cnn()
    with load(random_plan(imported, 5), imported, host_tier=f"file:{tmp_path / 'tier'}") as step:
        assert measure(step, 3, 0, compare=True).bitwise_equal is True
    assert list(tmp_path.iterdir()) == []


def test_closing_stops_the_copy_threads() -> None:
    imported = networks.cnn()
    before = threading.active_count()
    step = load(random_plan(imported, 5), imported)
    assert threading.active_count() == before + 2
    step.close()
    step.close()
    assert threading.active_count() == before


def test_a_failing_copy_ends_in_an_error_not_in_a_hang(step: TrainingStep, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(step.device._tier, "fetch", fail)
    step.device.copy(Engine.IN, 0, 0, 64)
    with pytest.raises(DeviceError, match="disk full"):
        step.device.synchronize()


def test_differences_are_counted_value_by_value(step: TrainingStep) -> None:
    unplanned = UnplannedStep(step.imported)
    feeds = _feeds(step)
    step(feeds)
    changed = {name: value.copy() for name, value in feeds.items()}
    changed["x"][0, 0, 0, 0] += 1
    unplanned(changed)
    differing = sum(int((step.state()[n] != v).sum()) for n, v in unplanned.state.items())
    assert differing > 0


def test_measurement_reports_bounded_scratch(step: TrainingStep) -> None:
    imported = step.imported
    with load(step.plan, imported, measure=True) as measured:
        result = measure(measured, 2, 0, compare=False)
    assert 0 <= result.peak_scratch_bytes <= step.plan.memory.scratch_bytes
    assert result.bitwise_equal is None


def test_a_plan_of_another_onnx_runtime_is_told_of_and_runs() -> None:
    imported = networks.mlp()
    plan = random_plan(imported, 0)

    def with_version(version: str) -> Plan:
        return msgspec.structs.replace(
            plan, costs=msgspec.structs.replace(plan.costs, versions={"onnxruntime": version})
        )

    with pytest.warns(PlancWarning, match=r"made for ONNX Runtime 1\.2\.3, this is .*compile again"):
        step = load(with_version("1.2.3"), imported)
    with step:
        step(synthetic_feeds(imported.graph, 0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(with_version(onnxruntime.__version__), imported).close()
