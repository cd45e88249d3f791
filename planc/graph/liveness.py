"""Live bytes of a step that keeps everything from its making to its last use: what an ordinary framework needs."""

from collections.abc import Sequence

from planc.graph.footprint import Footprint, padded_bytes
from planc.graph.graph import Graph, Role


def live_bytes(graph: Graph, prints: Sequence[Footprint]) -> tuple[int, ...]:
    """For each layer of the given order the bytes of every live storage, its own working bytes included.

    Every storage is freed after its last use; state, constants and outputs live throughout, batch inputs from the
    start. Operator scratch is not counted.
    """
    last: dict[int, int] = {}
    for i, p in enumerate(prints):
        last.update(dict.fromkeys((*p.reads, *p.writes), i))
    whole = {s for s in last if graph.storages[s].role in (Role.STATE, Role.CONSTANT)} | graph.output_storages
    live = {s for s in last if graph.storages[s].role is not Role.COMPUTED}
    held = sum(padded_bytes(graph, s) for s in live)
    found = []
    for i, p in enumerate(prints):
        found.append(held + p.working_bytes)
        for storage in p.writes:
            if storage not in live:
                live.add(storage)
                held += padded_bytes(graph, storage)
        for storage in [s for s in (*p.reads, *p.writes) if last[s] == i and s in live and s not in whole]:
            live.remove(storage)
            held -= padded_bytes(graph, storage)
    return tuple(found)
