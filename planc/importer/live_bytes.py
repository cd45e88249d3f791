"""Live bytes of a step at every node, and the bytes that every node touches, while storages are still being joined."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from planc.importer.draft import Draft


@dataclass(slots=True)
class Span:
    """Bytes of a storage from the node that makes it to the last that touches it, both included."""

    nbytes: int
    begin: int
    end: int


class StepMemory:
    """Storages go by their root; the next value of a state is its old one's storage.

    `live` has the bytes at every node; `peak` is the most of them, and `neediest` the most that a node touches, before
    anything is joined. `given` are the roots of what is there before the step. `touched` has the storages of every
    node, `readers` the reverse.
    """

    def __init__(self, draft: Draft) -> None:
        roots, nbytes, constants = draft.tensors.places.roots(), draft.tensors.nbytes, draft.values().keys()
        nodes, given, state = draft.nodes, draft.given, draft.state
        self.end = len(nodes)
        self.carried = {roots[t] for pair in state.items() for t in pair}
        self.given = {roots[tensor] for tensor in given}
        self.alias = {roots[new]: roots[old] for old, new in state.items()}
        self.replaced: dict[int, int] = {}
        self.storages: dict[int, Span] = {}
        self.touched: list[dict[int, None]] = []
        size: defaultdict[int, int] = defaultdict(int)
        for tensor, root in enumerate(roots):
            own = self.storage(root)
            size[own] = max(size[own], nbytes[tensor])
        for tensor in given:
            self._touch(roots[tensor], 0, size)
        for position, node in enumerate(nodes):
            self.touched.append({})
            for tensor in (*node.inputs, *node.outputs):
                if tensor >= 0 and tensor not in constants:
                    self.touched[-1][self._touch(roots[tensor], position, size)] = None
            for tensor in node.outputs:
                if tensor >= 0 and roots[tensor] in self.alias:
                    self.replaced[self.alias[roots[tensor]]] = position
        for root in (*(roots[tensor] for tensor in draft.kept.values()), *self.carried):
            self._touch(root, self.end, size)
        self._measure()

    def storage(self, root: int) -> int:
        """The storage of a tensor whose root is `root`."""
        return self.alias.get(root, root)

    def _touch(self, root: int, position: int, size: Mapping[int, int]) -> int:
        own = self.storage(root)
        span = self.storages.setdefault(own, Span(size[own], position, position))
        span.end = max(span.end, position)
        return own

    def _measure(self) -> None:
        change = np.zeros(self.end + 2, np.int64)
        for held in self.storages.values():
            change[held.begin] += held.nbytes
            change[held.end + 1] -= held.nbytes
        self.live = change.cumsum()
        needs = (sum(self.storages[s].nbytes for s in touched) for touched in self.touched)
        self.peak, self.neediest = int(self.live.max()), max(needs, default=0)
        self.readers: defaultdict[int, list[int]] = defaultdict(list)
        for position, touched in enumerate(self.touched):
            for storage in touched:
                self.readers[storage].append(position)

    def replace(self, whole: int, pieces: Sequence[int], position: int, begin: int, longer: bool) -> list[int] | None:
        """Let the nodes behind `position` touch `whole` in place of `pieces`, which take no bytes from `begin` on.

        Those nodes, in order; None, and nothing changes, where that would raise the peak, the bytes of the neediest node
        or, unless `longer`, those held over the step.
        """
        storages, held, live = self.storages, self.storages[whole], self.live.copy()
        end = max([held.end, *(storages[piece].end for piece in pieces)])
        for piece in pieces:
            live[begin : storages[piece].end + 1] -= storages[piece].nbytes
        live[held.end + 1 : end + 1] += held.nbytes
        readers = sorted({r for piece in pieces for r in self.readers[piece] if r > position})
        neediest = max((self._need_with(reader, whole, pieces) for reader in readers), default=0)
        if int(live.max()) > self.peak or neediest > self.neediest or not (longer or live.sum() <= self.live.sum()):
            return None
        self.live, held.end = live, end
        for piece in pieces:
            storages[piece].end = begin - 1
            self.readers[piece] = [r for r in self.readers[piece] if r <= position]
        for reader in readers:
            self.touched[reader] = dict.fromkeys(s for s in self.touched[reader] if s not in pieces) | {whole: None}
        self.readers[whole] += readers
        return readers

    def _need_with(self, node: int, whole: int, pieces: Sequence[int]) -> int:
        """Bytes that a node touches when it touches `whole` in place of `pieces`."""
        return sum(self.storages[s].nbytes for s in {s for s in self.touched[node] if s not in pieces} | {whole})
