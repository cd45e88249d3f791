"""Where a plan's storages lie at a slot."""

from collections import defaultdict
from collections.abc import Callable, Sequence

from planc.errors import InternalError
from planc.graph.concat import is_placed
from planc.graph.graph import Graph
from planc.plan.plan import Residency


class ResidencyIndex:
    """Finds the residency (residency) that a storage has at a slot."""

    def __init__(self, residencies: Sequence[Residency]) -> None:
        self._residencies = residencies
        self._by_storage: defaultdict[str, list[int]] = defaultdict(list)
        for index in sorted(range(len(residencies)), key=lambda i: residencies[i].begin):
            self._by_storage[residencies[index].storage].append(index)

    def offset(self, storage: str, slot: int) -> int:
        """Slab offset of the storage's latest residency that begins at or before `slot`."""
        for index in reversed(self._by_storage[storage]):
            if self._residencies[index].begin <= slot:
                return self._residencies[index].offset
        raise InternalError(f"storage {storage!r} has no residency at slot {slot}")

    def first(self, storage: str) -> int | None:
        """Slab offset of the residency that is there when a step begins, None when there is none."""
        residencies = self._by_storage.get(storage)
        if not residencies or self._residencies[residencies[0]].begin != 0:
            return None
        return self._residencies[residencies[0]].offset

    def last(self, storage: str) -> int | None:
        """Slab offset of the latest residency, None when there is none."""
        residencies = self._by_storage.get(storage)
        return self._residencies[residencies[-1]].offset if residencies else None

    def placed(self, graph: Graph, ops: Sequence[int], slot: int) -> frozenset[int]:
        """Positions among the operators `ops`, the first of which executes at `slot`, of Concats with nothing to do."""
        return frozenset(at for at, op in enumerate(ops) if is_placed(graph, op, self._addresses(graph, slot + at)))

    def _addresses(self, graph: Graph, slot: int) -> Callable[[int], int]:
        return lambda storage: self.offset(graph.storages[storage].name, slot)
