"""The memory snapshot: what PyTorch's viewer and its Python readers expect, with the plan's bytes in it."""

import pickle
import pickletools
from pathlib import Path
from typing import Any

import pytest
from support.networks import cnn
from support.plans import random_plan

from planc.plan.plan import Plan
from planc.report.memory import memory_over_time
from planc.report.memory_snapshot import write_memory_snapshot
from planc.report.view import view_of

VIEWER_READS = {
    "PROTO", "FRAME", "STOP", "MARK", "MEMOIZE", "BINGET", "LONG_BINGET", "NONE", "NEWTRUE", "NEWFALSE", "BININT",
    "BININT1", "BININT2", "LONG1", "BINFLOAT", "SHORT_BINUNICODE", "BINUNICODE", "EMPTY_LIST", "APPEND", "APPENDS",
    "EMPTY_DICT", "SETITEM", "SETITEMS", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3",
}  # fmt: skip
"""Opcodes that the viewer's own unpickler knows; it refuses a file with any other."""

EVENT = {"action": str, "addr": int, "size": int, "stream": int, "time_us": int, "frames": list}
BLOCK = {"address": int, "size": int, "requested_size": int, "state": str, "frames": list}
SEGMENT = {
    "device": int, "address": int, "total_size": int, "allocated_size": int, "active_size": int, "stream": int,
    "segment_type": str, "blocks": list, "frames": list,
}  # fmt: skip


def snapshot(plan: Plan, folder: Path) -> dict[str, Any]:
    path = folder / "memory.pickle"
    write_memory_snapshot(path, plan)
    found: dict[str, Any] = pickle.loads(path.read_bytes())
    return found


def has(entry: dict[str, Any], schema: dict[str, type]) -> bool:
    return all(type(entry[key]) is kind for key, kind in schema.items())


@pytest.mark.parametrize("seed", range(4))
def test_the_schema_is_the_viewers(tmp_path: Path, seed: int) -> None:
    data = snapshot(random_plan(cnn(), seed), tmp_path)
    raw = (tmp_path / "memory.pickle").read_bytes()
    assert {opcode.name for opcode, _, _ in pickletools.genops(raw)} <= VIEWER_READS
    assert all(has(segment, SEGMENT) for segment in data["segments"])
    assert all(has(block, BLOCK) for segment in data["segments"] for block in segment["blocks"])
    for event in data["device_traces"][0]:
        assert has(event, EVENT)
        assert event["action"] in {"segment_alloc", "alloc", "free_requested", "free_completed"}
        assert "category" not in event  # the viewer fails on categories without one named unknown
        assert all(set(frame) == {"filename", "line", "name"} for frame in event["frames"])


@pytest.mark.parametrize("seed", range(4))
def test_replayed_allocations_are_the_plans_memory(tmp_path: Path, seed: int) -> None:
    plan = random_plan(cnn(), seed)
    data = snapshot(plan, tmp_path)
    (segment,) = data["segments"]
    live: dict[int, int] = {}
    peak, last = 0, 0
    for event in data["device_traces"][0][1:]:
        assert event["time_us"] >= last
        last, address, size = event["time_us"], event["addr"], event["size"]
        if event["action"] == "alloc":
            assert segment["address"] <= address
            assert address + size <= segment["address"] + plan.memory.slab_bytes
            assert all(address + size <= a or a + b <= address for a, b in live.items()), "allocations overlap"
            live[address] = size
            peak = max(peak, sum(live.values()))
        elif event["action"] == "free_completed":
            assert live.pop(address) == size
    assert peak == memory_over_time(view_of(plan)).peak_bytes
    active = {b["address"]: b["size"] for b in segment["blocks"] if b["state"] == "active_allocated"}
    assert active == live
    at = segment["address"]
    for block in segment["blocks"]:
        assert block["address"] == at
        at += block["size"]
    assert at == segment["address"] + segment["total_size"]


def test_pytorchs_own_readers_take_it(tmp_path: Path) -> None:
    viz = pytest.importorskip("torch.cuda._memory_viz")
    plan = random_plan(cnn(), 1)
    data = snapshot(plan, tmp_path)
    assert "segments: 1" in viz.segsum(data)
    text = viz.trace(data)
    assert text.count(" = ") >= len(plan.residencies)
    assert viz.trace_plot(data)
