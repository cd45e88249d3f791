"""Brute-force check of a packing: slow, obvious, and independent of the packer."""

from collections.abc import Sequence
from enum import Enum
from itertools import combinations

from planc.packing.buffers import Buffer


class Verdict(Enum):
    """The first rule that offsets break, in this order, or GOOD."""

    GOOD = "the packing is valid"
    BAD_COUNT = "there is not one offset per buffer"
    BAD_OFFSET = "an offset is negative"
    BAD_ALIGNMENT = "an offset is no multiple of its buffer's alignment"
    BAD_PIN = "a pinned buffer lies elsewhere"
    BAD_HEIGHT = "a buffer ends above the capacity"
    BAD_OVERLAP = "two buffers alive at the same time share a byte"


def check_packing(buffers: Sequence[Buffer], offsets: Sequence[int], capacity: int | None = None) -> Verdict:
    """Judge offsets (bytes, one per buffer) by the definition, every pair of buffers and intervals: O(n²)."""
    if len(offsets) != len(buffers):
        return Verdict.BAD_COUNT
    placed = list(zip(buffers, offsets, strict=True))
    if any(offset < 0 for offset in offsets):
        return Verdict.BAD_OFFSET
    if any(offset % buffer.alignment for buffer, offset in placed):
        return Verdict.BAD_ALIGNMENT
    if any(buffer.pinned not in (None, offset) for buffer, offset in placed):
        return Verdict.BAD_PIN
    if capacity is not None and any(offset + buffer.size > capacity for buffer, offset in placed):
        return Verdict.BAD_HEIGHT
    if any(_share_time(a, b) and _share_bytes(a, x, b, y) for (a, x), (b, y) in combinations(placed, 2)):
        return Verdict.BAD_OVERLAP
    return Verdict.GOOD


def _share_time(a: Buffer, b: Buffer) -> bool:
    return any(max(s, t) < min(e, f) for s, e in a.lifetimes for t, f in b.lifetimes)


def _share_bytes(a: Buffer, offset: int, b: Buffer, other: int) -> bool:
    return a.size > 0 and b.size > 0 and offset < other + b.size and other < offset + a.size
