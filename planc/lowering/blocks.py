"""Blocks: residencies that share an address range, because one takes the bytes of another."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from planc.graph.footprint import padded_bytes
from planc.graph.graph import Graph
from planc.lowering.residencies import SlotResidency


@dataclass(frozen=True)
class Blocks:
    """The residencies of a step by block: chains of in-place residencies, the inputs of a Concat inside its output,
    the residencies of one carried storage. A block is named by its first residency."""

    graph: Graph
    residencies: Sequence[SlotResidency]

    @cached_property
    def _places(self) -> tuple[list[int], list[int]]:
        """For each residency the last one that gets its bytes, and its own first byte there.

        At most one residency takes the bytes of another, and takes them all, so a block is as large as its last
        residency.
        """
        taken = {
            residency.over: (index, 0) for index, residency in enumerate(self.residencies) if residency.over is not None
        }
        taken |= {
            index: residency.inside for index, residency in enumerate(self.residencies) if residency.inside is not None
        }
        last, shift = list(range(len(self.residencies))), [0] * len(self.residencies)
        for index in sorted(taken, reverse=True):  # who takes bytes follows
            later, offset = taken[index]
            last[index], shift[index] = last[later], shift[later] + offset
        return last, shift

    @property
    def offsets(self) -> list[int]:
        """For each residency its first byte in its block."""
        return self._places[1]

    @cached_property
    def heads(self) -> list[int]:
        """For each residency the first one of its block."""
        firsts: dict[int, int] = {}
        homes: dict[int, int] = {}
        return [
            homes.setdefault(residency.storage, index) if residency.home else firsts.setdefault(last, index)
            for index, (residency, last) in enumerate(zip(self.residencies, self._places[0], strict=True))
        ]

    @cached_property
    def members(self) -> dict[int, list[int]]:
        """The residencies of each block by its first one."""
        found: defaultdict[int, list[int]] = defaultdict(list)
        for index, head in enumerate(self.heads):
            found[head].append(index)
        return dict(found)

    def size(self, head: int) -> int:
        """Bytes of a block."""
        return max(self.offsets[i] + padded_bytes(self.graph, self.residencies[i].storage) for i in self.members[head])

    def lifetimes(self, head: int) -> tuple[tuple[int, int], ...]:
        """Slots on which some residency of a block holds bytes; it is held whole then."""
        return _union([(self.residencies[i].begin, self.residencies[i].end) for i in self.members[head]])

    def loads(self, slots: int) -> NDArray[np.int64]:
        """Bytes held at every one of so many slots."""
        change = np.zeros(slots + 1, np.int64)
        for head in self.members:
            size = self.size(head)
            for begin, end in self.lifetimes(head):
                change[begin] += size
                change[end] -= size
        return change.cumsum()[:-1]


def _union(spans: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """The spans sorted, with touching and overlapping ones joined."""
    if len(spans) == 1:
        return tuple(spans)
    joined: list[tuple[int, int]] = []
    for begin, end in sorted(spans):
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((begin, end))
    return tuple(joined)
