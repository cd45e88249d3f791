"""Residencies and scratch that share a byte of the slab are ordered by happens-before, or take each other's place."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from planc.verifier.content import ContentCheck, ResidencyUse
from planc.verifier.operators import leaves_out, may_overwrite
from planc.verifier.violation import Violation


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


@dataclass(frozen=True, slots=True)
class _Holder:
    """Who holds bytes [`offset`, `end`) from slot `begin` on: residency `stay`, or the scratch of a segment."""

    name: str
    begin: int
    offset: int
    end: int
    use: ResidencyUse
    residency: int | None = None


def check_bytes(check: ContentCheck) -> Iterator[Violation]:
    """Sweep residencies and scratch by first slot; each must begin after everything that touches those it displaces.

    `check` has been run, so its `uses` say what touches which residency. Happens-before is transitive, so comparing
    with the last owner of each byte is enough.
    """
    holders = [
        _Holder(check._where(i), s.begin, s.offset, s.offset + s.bytes, check.uses[i], i)
        for i, s in enumerate(check.plan.residencies)
    ]
    holders += _scratch(check)
    occupancy = _Occupancy(max([check.plan.memory.slab_bytes] + [holder.end for holder in holders]))
    for index in sorted(range(len(holders)), key=lambda i: (holders[i].begin, i)):
        holder = holders[index]
        for other in sorted(occupancy.replace(holder.offset, holder.end, index)):
            if not _ordered(check, holders[other], holder):
                text = f"{holders[other].name} may still be in use when {holder.name} is written"
                yield Violation("shared bytes", f"bytes [{holder.offset}, {holder.end})", text)


def _scratch(check: ContentCheck) -> Iterator[_Holder]:
    """The scratch of every segment that has some: written from its first operator on, in use until its last."""
    slots: dict[int, list[int]] = {}
    for slot, (run, _) in enumerate(check.slots):
        slots.setdefault(run, []).append(slot)
    for index, (region, (first, end)) in enumerate(zip(check.plan.scratch, check.plan.segments, strict=False)):
        own = [slot for run in range(first, end) for slot in slots.get(run, ())]
        if region.bytes and own:
            use = ResidencyUse(written_at=own[0], last_slot=own[-1])
            name = f"the scratch of segment {index}"
            yield _Holder(name, own[0], region.offset, region.offset + region.bytes, use)


def _ordered(check: ContentCheck, first: _Holder, second: _Holder) -> bool:
    """Whether every use of `first` is over before `second` is written."""
    order, use, writer = check.order, first.use, second.use
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


def _takes_over(check: ContentCheck, first: _Holder, second: _Holder, slot: int) -> bool:
    """Whether the operator at `slot` may write `second` over its input `first`: exactly over it, or around its inputs."""
    if first.residency is None or second.residency is None:
        return False
    a, b = check.plan.residencies[first.residency], check.plan.residencies[second.residency]
    op = check.slots[slot][1]
    if check.graph.tensors[check.graph.ops[op].outputs[0]].storage != check.storage_of[b.storage]:
        return False
    if may_overwrite(check.graph, op, check.storage_of[a.storage]):
        return (a.offset, a.bytes) == (b.offset, b.bytes)
    return first.residency in check.inputs_at(slot) and leaves_out(
        check.graph, op, lambda storage: check.address(storage, slot)
    )
