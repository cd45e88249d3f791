"""The predicted step as a memory snapshot of PyTorch's, for its viewer (pytorch.org/memory_viz).

The file has the form of `torch.cuda.memory._dump_snapshot`: the slab is one segment, every residency an allocation at its
planned address, freed when the plan gives the bytes away. The viewer reads pickles of protocol 4 made of plain values.
"""

import pickle
from pathlib import Path
from typing import Any

from planc.files import write_output
from planc.graph.graph import Graph
from planc.plan.plan import Plan
from planc.report.view import PlanView, ResidencyView, view_of
from planc.report.words import origin_of
from planc.units import ALIGNMENT

_BASE = 0x7F00_0000_0000
"""Where the slab begins: an address such as a card's, so that offsets are seen in its last digits."""

_DEVICE, _STREAM = 0, 0

Entry = dict[str, Any]


def write_memory_snapshot(path: Path, plan: Plan, graph: Graph | None = None) -> None:
    """Write the snapshot of a plan. Raises PlanError as `view_of`, OutputError when the file cannot be written."""
    write_output(path, pickle.dumps(memory_snapshot(view_of(plan, graph)), protocol=4), "memory snapshot")


def memory_snapshot(view: PlanView) -> Entry:
    """The snapshot as plain values. Times are predicted, in whole microseconds; sizes in bytes."""
    held = [r for r in (*view.residencies, *view.scratch) if r.end > r.begin and r.bytes]
    slab = view.plan.memory.slab_bytes
    segment = {"action": "segment_alloc", "addr": _BASE, "size": slab, "stream": _STREAM, "time_us": 0, "frames": []}
    left = sorted((r for r in held if r.end >= view.slots), key=lambda r: r.offset)
    return {
        "segments": [
            {
                "device": _DEVICE,
                "address": _BASE,
                "total_size": slab,
                "allocated_size": sum(r.bytes for r in left),
                "active_size": sum(r.bytes for r in left),
                "requested_size": sum(r.bytes for r in left),
                "stream": _STREAM,
                "segment_type": "large",
                "is_expandable": False,
                "frames": [],
                "blocks": _blocks(view, left, slab),
            }
        ],
        "device_traces": [[segment, *_events(view, held)]],
        "allocator_settings": {"PYTORCH_CUDA_ALLOC_CONF": "", "roundup_power2_divisions": {}, "alignment": ALIGNMENT},
        "external_annotations": [],
    }


def _events(view: PlanView, held: list[ResidencyView]) -> list[Entry]:
    """Allocations and frees in predicted order; of those at one moment, frees first."""
    moments = [(r.begin_ns, r.begin, 1, r) for r in held]
    moments += [(max(r.end_ns, r.begin_ns), r.end, 0, r) for r in held if r.end < view.slots]
    events = []
    for ns, _, begins, residency in sorted(moments, key=lambda moment: (*moment[:3], moment[3].index)):
        for action in ("alloc",) if begins else ("free_requested", "free_completed"):
            at = {"addr": _BASE + residency.offset, "size": residency.bytes, "stream": _STREAM, "time_us": ns // 1000}
            events.append({"action": action, **at, "frames": _frames(view, residency)})
    return events


def _blocks(view: PlanView, left: list[ResidencyView], slab: int) -> list[Entry]:
    """The slab at the end of the step, cut into what is allocated and what is not."""
    blocks: list[Entry] = []
    reached = 0
    for residency in left:
        if residency.offset > reached:
            blocks.append(_block(reached, residency.offset - reached, "inactive", []))
        blocks.append(_block(residency.offset, residency.bytes, "active_allocated", _frames(view, residency)))
        reached = residency.offset + residency.bytes
    if reached < slab:
        blocks.append(_block(reached, slab - reached, "inactive", []))
    return blocks


def _block(offset: int, size: int, state: str, frames: list[Entry]) -> Entry:
    return {"address": _BASE + offset, "size": size, "requested_size": size, "state": state, "frames": frames}


def _frames(view: PlanView, residency: ResidencyView) -> list[Entry]:
    """What the viewer shows of an allocation, as a stack: the tensor, and what brings its bytes there."""
    names = (f"{residency.storage} ({residency.content.value})", f"from {origin_of(view, residency)}")
    return [{"filename": "residency", "line": residency.index, "name": name} for name in names]
