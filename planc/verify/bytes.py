"""Residencies that share a byte of the slab are ordered by happens-before, or take each other's place safely."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

from planc.graph.footprint import write_over_candidates
from planc.verify.content import ContentCheck
from planc.verify.violation import Violation


class _Occupancy:
    """Who wrote each byte range last: disjoint ranges [start, end) with their residency, sorted."""

    def __init__(self, size: int) -> None:
        self.starts = [0]
        self.ends = [size]
        self.owners = [-1]

    def replace(self, start: int, end: int, owner: int) -> set[int]:
        """Give [start, end) to `owner`; returns who had a byte of it."""
        low = bisect_right(self.starts, start) - 1
        high = bisect_left(self.starts, end)
        before = (self.starts[low], start, self.owners[low])
        after = (end, self.ends[high - 1], self.owners[high - 1])
        displaced = set(self.owners[low:high]) - {-1}
        parts = [part for part in (before, (start, end, owner), after) if part[0] < part[1]]
        self.starts[low:high] = [part[0] for part in parts]
        self.ends[low:high] = [part[1] for part in parts]
        self.owners[low:high] = [part[2] for part in parts]
        return displaced


def check_bytes(check: ContentCheck) -> Iterator[Violation]:
    """Sweep residencies by first slot; each must begin after everything that touches those it displaces.

    `check` has been run, so its `uses` say what touches which residency. Happens-before is transitive, so comparing
    with the last owner of each byte is enough.
    """
    stays = check.plan.residencies
    occupancy = _Occupancy(max([check.plan.memory.slab_bytes] + [s.offset + s.bytes for s in stays]))
    for index in sorted(range(len(stays)), key=lambda i: (stays[i].begin, i)):
        stay = stays[index]
        for other in sorted(occupancy.replace(stay.offset, stay.offset + stay.bytes, index)):
            if not _ordered(check, other, index):
                first, second = check._where(other), check._where(index)
                text = f"{first} may still be in use when {second} is written"
                yield Violation("shared bytes", f"bytes [{stay.offset}, {stay.offset + stay.bytes})", text)


def _ordered(check: ContentCheck, first: int, second: int) -> bool:
    """Whether every use of `first` is over before `second` is written."""
    order, use, writer = check.order, check.uses[first], check.uses[second]
    if use.needed_at_end:
        return False
    if writer.brought_by is not None:
        copy = writer.brought_by
        computed = use.last_slot < 0 or order.run_before_copy(check.slots[use.last_slot][0], copy)
        return computed and all(order.copy_before_copy(c, copy) for c in use.copies)
    if writer.written_at is None:
        return False
    slot = writer.written_at
    copied = all(order.copy_before_run(c, check.slots[slot][0]) for c in use.copies)
    return copied and (use.last_slot < slot or (use.last_slot == slot and _takes_over(check, first, second, slot)))


def _takes_over(check: ContentCheck, first: int, second: int, slot: int) -> bool:
    """Whether the operator at `slot` may write `second` exactly over its input `first`."""
    a, b = check.plan.residencies[first], check.plan.residencies[second]
    op = check.slots[slot][1]
    safe = check.storage_of[a.storage] in write_over_candidates(check.graph, op)
    produced = check.graph.tensors[check.graph.ops[op].outputs[0]].storage == check.storage_of[b.storage]
    return safe and produced and (a.offset, a.bytes) == (b.offset, b.bytes)
