"""Concats by placement: the inputs of one execution get addresses inside its output (see `planc.graph.concat`).

An input qualifies as a result in place does: its last use is the Concat, and nothing copies it out meanwhile. The bytes
of the output are then held from the first input on, instead of twice at the Concat, and nothing is copied. The packer
keeps them whole all that time, so this is done only where the load of no moment rises above the highest.
"""

from collections import defaultdict
from collections.abc import Sequence
from functools import cache

import numpy as np

from planc.graph.concat import pieces_of
from planc.graph.footprint import padded_bytes
from planc.lowering.blocks import Blocks
from planc.lowering.residencies import SlotMap, SlotResidency, may_be_overwritten


def mark_inside(slots: SlotMap, residencies: Sequence[SlotResidency], scratch: Sequence[int]) -> None:
    """Set `inside` on the residencies, sorted by first slot, of inputs that are to lie in the output of a Concat.

    `scratch` has the bytes of every step besides those of residencies.
    """
    graph = slots.graph
    ops = [op for step in slots.steps for op in range(graph.layers[step].start, graph.layers[step].stop)]
    pieces = cache(lambda op: pieces_of(graph, op))
    if any(pieces(op) for op in dict.fromkeys(ops)):
        work = _Marking(slots, residencies, scratch)
        for index, residency in enumerate(residencies):
            found = pieces(ops[residency.begin]) if residency.copied_in is None else None
            if found and residency.storage in graph.op_writes[ops[residency.begin]]:
                work.consider(index, found)


class _Marking:
    """The load of every slot as marking goes on; `begins` has for the outputs around their inputs the slot from which on
    they are held whole."""

    def __init__(self, slots: SlotMap, residencies: Sequence[SlotResidency], scratch: Sequence[int]) -> None:
        self.slots, self.residencies = slots, residencies
        beside = np.repeat(np.array(scratch, np.int64), np.diff(slots.begin))
        self.load = Blocks(slots.graph, residencies).loads(slots.total) + beside
        self.taken = {residency.over for residency in residencies}
        self.ending: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        for index, residency in enumerate(residencies):
            self.ending[residency.storage, residency.end].append(index)
        self.begins: dict[int, int] = {}

    def consider(self, output: int, pieces: Sequence[tuple[int, int]]) -> None:
        """Place the inputs `pieces` (storage, first byte) of the Concat that makes residency `output`, if load allows."""
        slot = self.residencies[output].begin
        members = [self._input(storage, slot) for storage, _ in pieces]
        inputs = [index for index in members if index is not None]
        if len(inputs) < len(pieces):
            return
        begins = [self._begin(index) for index in inputs]
        begin = min(begins)
        load = self.load[begin : slot + 1].copy()
        for index, own in zip(inputs, begins, strict=True):
            load[own - begin :] -= padded_bytes(self.slots.graph, self.residencies[index].storage)
        load[:-1] += padded_bytes(self.slots.graph, self.residencies[output].storage)
        if int(load.max()) > int(self.load.max()):
            return
        self.load[begin : slot + 1] = load
        for index, (_, offset) in zip(inputs, pieces, strict=True):
            self.residencies[index].inside = (output, offset)
        self.begins[output] = begin

    def _input(self, storage: int, slot: int) -> int | None:
        """The residency of an input that ends with the Concat at `slot`, None where its bytes cannot be the output's."""
        for index in self.ending[storage, slot + 1]:
            residency = self.residencies[index]
            if residency.begin < slot and index not in self.taken and may_be_overwritten(self.slots, residency):
                return index
        return None

    def _begin(self, index: int) -> int:
        """The slot from which on the bytes of a residency are held for it, or for those that it gets them from."""
        over = self.residencies[index].over
        while index not in self.begins and over is not None:
            index, over = over, self.residencies[over].over
        return self.begins.get(index, self.residencies[index].begin)
