"""Whatever the driver refuses, and whenever: a DeviceError, nothing left on the card, no crash."""

import pytest
from cuda_emulator.emulator import Emulator
from support import networks
from support.emulated import card, cuda_plan, open_step, run_steps

from planc.errors import DeviceError

__all__ = ["card"]

RECOVERED = {"capture", "instantiate"}
"""Classes whose refusal only means that steps are launched instead of replayed."""


def _calls_of_a_run(card: Emulator, name: str, replay: bool) -> int:
    with open_step(card, networks.mlp(), cuda_plan(networks.mlp(), 0), replay) as step:
        run_steps(step, networks.mlp(), 3)
    return card.calls(name)


@pytest.mark.parametrize(
    ("name", "replay"),
    [
        ("context", True), ("alloc", True), ("pinned", True), ("stream", True), ("event", False), ("event", True),
        ("record", False), ("wait", False), ("copy", False), ("kernel", False), ("synchronize", False),
        ("launch", True), ("capture", True), ("instantiate", True), ("record", True), ("kernel", True),
    ],
)  # fmt: skip
def test_every_failure_ends_in_a_typed_error_and_leaks_nothing(card: Emulator, name: str, replay: bool) -> None:
    imported = networks.mlp()
    plan = cuda_plan(imported, 0)
    total = _calls_of_a_run(card, name, replay)
    assert total > 0
    failed = 0
    for nth in sorted({1, 2, 3, total, *range(1, total, max(1, total // 12))}):
        card.reset(nth)
        card.fail(name, nth)
        try:
            with open_step(card, imported, plan, replay) as step:
                run_steps(step, imported, 3)
        except DeviceError:
            failed += 1
        assert card.live == 0
    assert failed > 0 or name in RECOVERED


def test_a_card_that_is_too_small_is_named_with_what_it_has_free(card: Emulator) -> None:
    plan = cuda_plan(networks.mlp(), 0)
    card.reset(0, device_limit=plan.memory.slab_bytes - 1)
    with pytest.raises(DeviceError, match=r"the plan's slab needs .* free: compile for a smaller budget"):
        open_step(card, networks.mlp(), plan)
    assert card.live == 0


def test_a_host_that_cannot_pin_enough_is_told_its_limits(card: Emulator) -> None:
    plan = cuda_plan(networks.mlp(), 0)
    card.reset(0, pinned_limit=plan.memory.host_bytes - 1)
    with pytest.raises(DeviceError, match=r"page-locked host memory, which the host refuses .*locked memory limit"):
        open_step(card, networks.mlp(), plan)
    assert card.live == 0


def test_closing_twice_is_harmless(card: Emulator) -> None:
    step = open_step(card, networks.mlp(), cuda_plan(networks.mlp(), 0))
    run_steps(step, networks.mlp(), 2)
    step.close()
    step.close()
    assert card.live == 0
