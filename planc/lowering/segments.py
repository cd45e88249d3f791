"""Where a step is cut into segments, and how much scratch each of them needs."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from planc.graph.footprint import padded_bytes
from planc.lowering.stays import SlotMap, Stay
from planc.schedule.schedule import Schedule

_ROOMY_PERCENT = 90
"""Runs share a scratch region while that leaves this much of the load bound unfilled: a cut costs the host some
microseconds, a region larger than needed costs the packer freedom."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Runs [`first`, `end`) of one session, with the scratch (bytes) of the neediest of them."""

    first: int
    end: int
    scratch: int = 0


def segments_of(
    slots: SlotMap, schedule: Schedule, stays: Sequence[Stay], layer_scratch: Sequence[int]
) -> list[Segment]:
    """Cut where a copy starts or is awaited and, where scratch takes bytes of the slab, where neighbours would hold more
    of it than memory has room for.

    `layer_scratch` are bytes by layer, or nothing where scratch lies beside the slab.
    """
    total = len(schedule.steps)
    cuts = {0, total} | {c.start for c in schedule.copies} | {c.stop for c in schedule.copies}
    if not layer_scratch:
        ordered = sorted(cuts)
        return [Segment(first, end) for first, end in pairwise(ordered)]
    scratch = [layer_scratch[layer] for layer in schedule.steps]
    load = _loads(slots, stays)
    room = max((a + b for a, b in zip(load, scratch, strict=True)), default=0) * _ROOMY_PERCENT // 100
    found: list[Segment] = []
    widest = 0
    for run in range(total):
        last = found[-1] if found else None
        if last is not None and run not in cuts:
            need, most = max(last.scratch, scratch[run]), max(widest, load[run])
            if last.scratch == scratch[run] or need + most <= room:
                found[-1], widest = Segment(last.first, run + 1, need), most
                continue
        found.append(Segment(run, run + 1, scratch[run]))
        widest = load[run]
    return found


def _loads(slots: SlotMap, stays: Sequence[Stay]) -> list[int]:
    """For each run the most bytes that stays hold at one of its slots."""
    change = [0] * (slots.total + 1)
    for stay in stays:
        size = padded_bytes(slots.graph, stay.storage)
        change[stay.begin + (stay.over is not None)] += size
        change[stay.end] -= size
    held, at_slot = 0, []
    for slot in range(slots.total):
        held += change[slot]
        at_slot.append(held)
    return [max(at_slot[a:b]) for a, b in pairwise(slots.begin)]
