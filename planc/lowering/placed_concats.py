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
from planc.lowering.stays import SlotMap, Stay, may_be_overwritten


def mark_inside(slots: SlotMap, stays: Sequence[Stay], scratch: Sequence[int]) -> None:
    """Set `inside` on the stays, sorted by first slot, of inputs that are to lie in the output of a Concat.

    `scratch` has the bytes of every step besides those of stays.
    """
    graph = slots.graph
    ops = [op for step in slots.steps for op in range(graph.layers[step].start, graph.layers[step].stop)]
    pieces = cache(lambda op: pieces_of(graph, op))
    if any(pieces(op) for op in dict.fromkeys(ops)):
        work = _Marking(slots, stays, scratch)
        for index, stay in enumerate(stays):
            found = pieces(ops[stay.begin]) if stay.copied_in is None else None
            if found and stay.storage in graph.op_writes[ops[stay.begin]]:
                work.consider(index, found)


class _Marking:
    """The load of every slot as marking goes on; `begins` has for the outputs around their inputs the slot from which on
    they are held whole."""

    def __init__(self, slots: SlotMap, stays: Sequence[Stay], scratch: Sequence[int]) -> None:
        self.slots, self.stays = slots, stays
        beside = np.repeat(np.array(scratch, np.int64), np.diff(slots.begin))
        self.load = Blocks(slots.graph, stays).loads(slots.total) + beside
        self.taken = {stay.over for stay in stays}
        self.ending: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        for index, stay in enumerate(stays):
            self.ending[stay.storage, stay.end].append(index)
        self.begins: dict[int, int] = {}

    def consider(self, output: int, pieces: Sequence[tuple[int, int]]) -> None:
        """Place the inputs `pieces` (storage, first byte) of the Concat that makes stay `output`, if load allows."""
        slot = self.stays[output].begin
        members = [self._input(storage, slot) for storage, _ in pieces]
        inputs = [index for index in members if index is not None]
        if len(inputs) < len(pieces):
            return
        begins = [self._begin(index) for index in inputs]
        begin = min(begins)
        load = self.load[begin : slot + 1].copy()
        for index, own in zip(inputs, begins, strict=True):
            load[own - begin :] -= padded_bytes(self.slots.graph, self.stays[index].storage)
        load[:-1] += padded_bytes(self.slots.graph, self.stays[output].storage)
        if int(load.max()) > int(self.load.max()):
            return
        self.load[begin : slot + 1] = load
        for index, (_, offset) in zip(inputs, pieces, strict=True):
            self.stays[index].inside = (output, offset)
        self.begins[output] = begin

    def _input(self, storage: int, slot: int) -> int | None:
        """The stay of an input that ends with the Concat at `slot`, None where its bytes cannot be the output's."""
        for index in self.ending[storage, slot + 1]:
            stay = self.stays[index]
            if stay.begin < slot and index not in self.taken and may_be_overwritten(self.slots, stay):
                return index
        return None

    def _begin(self, index: int) -> int:
        """The slot from which on the bytes of a stay are held for it, or for those that it gets them from."""
        over = self.stays[index].over
        while index not in self.begins and over is not None:
            index, over = over, self.stays[over].over
        return self.begins.get(index, self.stays[index].begin)
