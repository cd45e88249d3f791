"""Scratch at planned addresses: what a region hands out, what a step uses of it, and what happens when it is too small."""

import gc
import subprocess
import sys
from pathlib import Path

import msgspec
import onnx
import pytest
from support import networks
from support.plans import random_plan

from planc.compiler.job import compile_model
from planc.compiler.options import CompileOptions
from planc.errors import DeviceError, InternalError
from planc.plan.plan import Plan
from planc.plan.plan import Region as Place
from planc.profiling.profile import profile
from planc.runtime.cpu import CpuDevice
from planc.runtime.executor import Executor
from planc.runtime.measure import measure, synthetic_feeds
from planc.runtime.scratch import HEAP_ALIGNMENT, ScratchRegion, scratch_allocator
from planc.runtime.step import load

replace = msgspec.structs.replace


def test_a_region_hands_out_aligned_disjoint_bytes_and_starts_over_when_empty() -> None:
    region = ScratchRegion(base=1 << 20, size=4 * HEAP_ALIGNMENT)
    assert [region.take(1), region.take(HEAP_ALIGNMENT)] == [1 << 20, (1 << 20) + HEAP_ALIGNMENT]
    region.give_back()
    assert region.take(HEAP_ALIGNMENT) == (1 << 20) + 2 * HEAP_ALIGNMENT
    region.give_back()
    region.give_back()
    assert region.take(4 * HEAP_ALIGNMENT) == 1 << 20
    assert (region.peak, region.refused) == (4 * HEAP_ALIGNMENT, False)


def test_a_region_refuses_what_it_does_not_have() -> None:
    region = ScratchRegion(base=0, size=HEAP_ALIGNMENT)
    assert region.take(HEAP_ALIGNMENT + 1) is None
    assert region.refused


def _compiled() -> Plan:
    imported = networks.cnn()
    return compile_model(imported, profile(imported, "cpu"), CompileOptions("100%", time_limit_s=5.0)).plan


def test_operators_use_the_planned_bytes_of_the_slab_and_nothing_beside_it() -> None:
    plan = _compiled()
    assert plan.memory.scratch_bytes == 0
    assert plan.memory.slab_scratch_bytes > 0
    with load(plan, networks.cnn()) as step:
        result = measure(step, steps=2, seed=0, compare=True)
    assert result.bitwise_equal is True
    assert 0 < result.peak_slab_scratch_bytes <= plan.memory.slab_scratch_bytes
    assert result.peak_scratch_bytes == 0


def test_a_plan_with_too_little_scratch_ends_in_an_error_that_says_so() -> None:
    plan, imported = _compiled(), networks.cnn()
    bare = replace(plan, scratch=tuple(replace(region, bytes=0) for region in plan.scratch))
    with (
        load(bare, imported) as step,
        pytest.raises(
            DeviceError,
            match="the plan has 0: profile again on this machine, with the [1-9][0-9]* threads of",
        ),
    ):
        step(synthetic_feeds(imported.graph, 0))


def test_plans_with_scratch_inside_and_beside_take_turns_in_one_process() -> None:
    imported = networks.mlp()
    inside, beside = (random_plan(imported, 3, scratch_in_slab=way) for way in (True, False))
    with load(inside, imported) as first, load(beside, imported) as second:
        for seed in range(3):
            feeds = synthetic_feeds(imported.graph, seed)
            a, b = first(feeds), second(feeds)
            assert all(a[name].tobytes() == b[name].tobytes() for name in a)


def test_nothing_of_a_closed_step_stays_on_the_heap() -> None:
    allocator = scratch_allocator()
    assert allocator is not None
    gc.collect()
    before = len(allocator._heap)
    imported = networks.cnn()
    with load(_compiled(), imported) as step:
        step(synthetic_feeds(imported.graph, 0))
    del step
    gc.collect()
    assert len(allocator._heap) <= before


def test_scratch_outside_the_slab_or_on_a_device_without_a_place_for_it_is_refused() -> None:
    plan, imported = _compiled(), networks.cnn()
    memory = plan.memory
    device = CpuDevice(memory.slab_bytes, memory.host_bytes, 0)
    far = replace(plan, scratch=tuple(Place(memory.slab_bytes, 64) for _ in plan.scratch))
    with pytest.raises(InternalError):
        Executor(far, imported, device)
    device.close()


PROGRAM = """
import sys
import onnxruntime as ort
import planc
from planc.runtime.measure import synthetic_feeds

model, plan = sys.argv[1:]
own = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
step = planc.load(plan, model)
feeds = synthetic_feeds(step.imported.graph, 0)
feeds |= step.state()
values = own.run_with_ort_values(None, {name: ort.OrtValue.ortvalue_from_numpy(v) for name, v in feeds.items()})
step(synthetic_feeds(step.imported.graph, 0))
"""
"""Everything is still held when the program ends: sessions that allocated before planc came, values, a planned step."""


def test_a_program_that_holds_sessions_to_its_end_ends_well(tmp_path: Path) -> None:
    imported = networks.cnn()
    onnx.save(imported.file.proto, tmp_path / "train.onnx")
    _compiled().save(tmp_path / "train.plan.json")
    program = [sys.executable, "-c", PROGRAM, tmp_path / "train.onnx", tmp_path / "train.plan.json"]
    ended = subprocess.run(program, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
