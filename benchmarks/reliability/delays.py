"""Altered plans that the verifier accepts, executed while an adversary delays copies and operators."""

import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from cuda_emulator import emulator as emu
from support import networks
from support.concats import branches
from support.emulated import SCRATCH_BYTES, cuda_plan, expected, loaded_emulator, open_step, run_steps
from support.views import stacked

from benchmarks.reliability.count import Count
from benchmarks.reliability.plans import Case, accepted, random_cases
from planc.errors import DeviceError
from planc.importer.import_model import ImportedModel
from planc.plan.plan import Plan
from planc.runtime.cpu import CpuDevice
from planc.runtime.measure import measure
from planc.runtime.step import load
from planc.runtime.tiers import RamTier

_MOST_S = 0.002
_SCHEDULES = 8


def delayed(scale: int) -> dict[str, Count]:
    """On the CPU, with copies that pause before, within and after, and operators that begin late: what the verifier accepts
    of the first `scale` of each class that `plans.mutated` judges."""
    count = Count()
    for title, imported, plan in accepted(random_cases(), scale, count):
        with _delays(random.Random(title)):
            count.add(_refused_or(count, lambda: _on_cpu(title, imported, plan)))  # noqa: B023 - called at once
    return {"accepted altered plans, executed under delays": count}


def emulated(scale: int) -> dict[str, Count]:
    """On the emulated card in random interleavings, which also tell of races: each class of mutation `scale` times."""
    if emu.why_not() is not None:
        return {}
    count = Count()
    with _card() as emulator:
        for title, imported, plan in accepted(_card_cases(), scale, count):
            count.add(_refused_or(count, lambda: _on_card(emulator, title, imported, plan)))  # noqa: B023
    count.notes["interleavings of each"] = _SCHEDULES
    return {"accepted altered plans on the emulated card": count}


def _card_cases() -> list[Case]:
    """Plans in which every Concat is placed or none: a Concat that runs writes another pattern than its inputs."""
    plain = [(build, seed) for build in (networks.cnn, networks.mlp, networks.adam_mlp) for seed in range(6)]
    placed = [*((stacked, seed) for seed in (0, 2, 3)), *((branches, seed) for seed in (0, 9, 28))]
    return [(build(), cuda_plan(build(), seed)) for build, seed in (*plain, *placed)]


@contextmanager
def _delays(rng: random.Random) -> Iterator[None]:
    """Let every copy pause before, half-way and after, and every operator begin late, by up to `_MOST_S` seconds."""

    def pause() -> None:
        time.sleep(rng.choice((0, 0, 1)) * rng.uniform(0, _MOST_S))

    def in_halves(move: Any) -> Any:
        def slowly(tier: RamTier, offset: int, view: memoryview) -> None:
            half = len(view) // 2
            for part, at in ((view[:half], offset), (view[half:], offset + half)):
                pause()
                move(tier, at, part)
            pause()

        return slowly

    launch = CpuDevice.launch

    def late(device: CpuDevice, segment: Any) -> None:
        pause()
        launch(device, segment)

    with (
        mock.patch.object(RamTier, "store", in_halves(RamTier.store)),
        mock.patch.object(RamTier, "fetch", in_halves(RamTier.fetch)),
        mock.patch.object(CpuDevice, "launch", late),
    ):
        yield


@contextmanager
def _card() -> Iterator[emu.Emulator]:
    with tempfile.TemporaryDirectory() as folder:
        emulator = loaded_emulator(Path(folder))
        with mock.patch("planc.runtime.cuda.device.cuda_session", emulator.session):
            emulator.reset()
            emulator.expect_segments(())
            emulator.present(True)
            yield emulator
            emulator.present(False)


def _refused_or(count: Count, execute: Callable[[], str | None]) -> str | None:
    """What `execute` finds; a device may refuse a plan: a form that it has not, less scratch than its operators take."""
    try:
        return execute()
    except DeviceError:
        count.note("refused by the device")
        return None


def _on_cpu(title: str, imported: ImportedModel, plan: Plan) -> str | None:
    with load(plan, imported, host_tier="ram") as step, np.errstate(all="ignore"):
        result = measure(step, 3, 0, compare=True)
    return None if result.bitwise_equal else f"{title}: {result.differing_values} values differ"


def _on_card(emulator: emu.Emulator, title: str, imported: ImportedModel, plan: Plan) -> str | None:
    if plan.memory.scratch_bytes < SCRATCH_BYTES:
        raise DeviceError("less scratch than the emulated operators take")
    emulator.expect_segments(())
    want = expected(emulator, imported, 2)
    with open_step(emulator, imported, plan, False) as step:
        start = step.state()
        for schedule in range(_SCHEDULES):
            emulator.reset(schedule)
            step.set_state(start)
            if run_steps(step, imported, 2) != want:
                return f"{title}: other values in interleaving {schedule}"
            if emulator.problems:
                return f"{title}: {emulator.problems[0]}"
    return None
