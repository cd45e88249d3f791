"""The list of devices: how they are found, and that a device of somebody else's works from the list alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from support.networks import mlp
from support.training_steps import random_batch

import planc
from planc import devices
from planc.devices import DeviceKind, find_device, preferred_device, register
from planc.errors import InternalError, UsageError
from planc.profiling.cpu import CpuMeter
from planc.profiling.target import target_of
from planc.runtime.cpu import CpuDevice


class ToyMeter(CpuMeter):
    """Measures on the CPU, and calls it a toy."""

    def device(self) -> Any:
        import msgspec

        return msgspec.structs.replace(super().device(), kind="toy", name="a toy")


opened: list[int] = []


def open_toy(slab: int, host: int, scratch: int, tier: str, measure: bool, index: int) -> CpuDevice:
    opened.append(index)
    return CpuDevice(slab, host, scratch, tier, measure)


def toy_meter(index: int) -> ToyMeter:
    assert index == 3
    return ToyMeter()


def toy_identity(index: int) -> tuple[str, ...]:
    return ("toy", str(index))


TOY = DeviceKind(
    name="toy",
    preference=-1,
    indexed=True,
    usable_part="planc.runtime.cpu:usable",
    device_part=f"{__name__}:open_toy",
    session_part="planc.runtime.cpu_session:open_session",
    meter_part=f"{__name__}:toy_meter",
    identity_part=f"{__name__}:toy_identity",
    fuses_part="planc.runtime.cpu:fuses",
    places_scratch_part="planc.runtime.ort.c_api:can_place_scratch",
    forms="cpu",
)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[DeviceKind]:
    import sys

    monkeypatch.setenv("PLANC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, __name__, sys.modules[toy_meter.__module__])
    register(TOY)
    yield TOY
    del devices.DEVICES["toy"]


def test_a_toy_device_is_profiled_planned_for_and_run(toy: DeviceKind, tmp_path: Path) -> None:
    path = tmp_path / "mlp.onnx"
    onnx.save(mlp().file.proto, path)
    plan = planc.compile(path, budget="200%", device="toy:3", time_limit=1.0)
    assert (plan.costs.kind, plan.costs.device) == ("toy", "a toy")
    opened.clear()
    with planc.load(plan, path) as step:
        feeds = random_batch(step.imported.file.proto)
        assert step(feeds)
    assert opened == [0]
    assert list((tmp_path / "cache").glob("*.json"))


def test_names_are_found_in_any_case_and_with_an_index() -> None:
    assert find_device("CUDA:2") == (devices.DEVICES["cuda"], 2)
    assert find_device("cpu") == (devices.DEVICES["cpu"], 0)
    for text in ("cpu:0", "cuda:", "cuda:x", "gpu", ""):
        assert find_device(text) is None


def test_an_unknown_device_is_told_with_those_that_are_known() -> None:
    with pytest.raises(
        UsageError, match=r"unknown device 'tpu': planc measures and runs on cpu, cuda and cuda:INDEX, .*t4"
    ):
        target_of("tpu")


def test_auto_is_the_best_that_is_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DeviceKind, "usable", lambda kind: kind.name == "cpu")
    assert preferred_device().name == target_of("auto").name == "cpu"
    monkeypatch.setattr(DeviceKind, "usable", lambda _: True)
    assert preferred_device().name == target_of("AUTO").name == "cuda"


def test_a_catalogue_card_is_a_target_that_fuses() -> None:
    card = target_of("P100")
    assert (card.card, card.kind.name, card.fuses, card.forms) == ("p100", "cuda", True, "cuda")


def test_a_name_cannot_be_taken_twice() -> None:
    with pytest.raises(InternalError, match="the device 'cpu' is registered twice"):
        register(devices.DEVICES["cpu"])
