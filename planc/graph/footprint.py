"""What each layer reads, leaves behind and needs while it runs; from a graph alone, operator by operator."""

from dataclasses import dataclass

from planc.graph.graph import Graph, Layer, Role
from planc.graph.inplace import may_write_over
from planc.units import ALIGNMENT, align_up


def padded_bytes(graph: Graph, storage: int) -> int:
    """Bytes of a storage in the slab, rounded up to the alignment."""
    return max(ALIGNMENT, align_up(graph.storages[storage].nbytes, ALIGNMENT))


def write_over_candidates(graph: Graph, op_index: int) -> tuple[int, ...]:
    """Storages that the operator's first output may take over if nothing needs them afterwards."""
    op = graph.ops[op_index]
    if not op.outputs or op.outputs[0] < 0:
        return ()
    inputs: list[tuple[int, str, tuple[int, ...]]] = []
    for t in op.inputs:
        bound = t >= 0 and t not in op.constants
        tensor = graph.tensors[t] if t >= 0 else None
        storage = tensor.storage if bound and tensor else -1
        if tensor is None or tensor.offset:  # a view inside its storage: nothing may be written over that
            inputs.append((storage, "", ()))
        else:
            inputs.append((storage, tensor.dtype, tensor.shape))
    first = graph.tensors[op.outputs[0]]
    return may_write_over(op.op_type, op.domain, inputs, (first.dtype, first.shape))


@dataclass(frozen=True, slots=True)
class Footprint:
    """One layer's storages. `reads` are there at entry, `writes` remain after it (or mutate state).
    `working_bytes` is the peak over the padded bytes of `reads`, see `footprint`."""

    reads: tuple[int, ...]
    writes: tuple[int, ...]
    working_bytes: int
    recomputable: bool


def footprints(graph: Graph) -> tuple[Footprint, ...]:
    """The footprint of every layer, in order."""
    return tuple(_footprint(graph, layer) for layer in graph.layers)


def is_recomputable(graph: Graph, layer: Layer) -> bool:
    """Whether the layer may run again in the same step: a forward layer without random operators or state updates."""
    if layer.phase != "forward":
        return False
    ops = range(layer.start, layer.stop)
    mutates = any(graph.storages[s].role is Role.STATE for i in ops for s in graph.op_writes[i])
    return not mutates and not any(graph.ops[i].random for i in ops)


def _footprint(graph: Graph, layer: Layer) -> Footprint:
    written: dict[int, None] = {}
    reads: dict[int, None] = {}
    last: dict[int, int] = {}
    for index in range(layer.start, layer.stop):
        for storage in graph.op_reads[index]:
            if storage not in written:
                reads[storage] = None
            last[storage] = index
        for storage in graph.op_writes[index]:
            if graph.storages[storage].role is Role.STATE:
                reads[storage] = None
            written[storage] = None
            last[storage] = index
    outlives = {
        s for s in written
        if graph.last_read[s] >= layer.stop or s in graph.output_storages or graph.storages[s].role is Role.STATE
    }  # fmt: skip
    recomputable = is_recomputable(graph, layer)
    dying = set() if recomputable else {s for s in reads if _dies_in(graph, s, layer)}
    return Footprint(
        reads=tuple(reads),
        writes=tuple(s for s in written if s in outlives),
        working_bytes=_working_bytes(graph, layer, set(reads), dying, outlives, last),
        recomputable=recomputable,
    )


def _dies_in(graph: Graph, storage: int, layer: Layer) -> bool:
    """Whether nothing needs the storage after the layer. A layer that runs once (not recomputable) is where it ends."""
    computed = graph.storages[storage].role in (Role.COMPUTED, Role.BATCH)
    return computed and graph.last_read[storage] < layer.stop and storage not in graph.output_storages


def _working_bytes(
    graph: Graph, layer: Layer, reads: set[int], dying: set[int], outlives: set[int], last: dict[int, int]
) -> int:
    """Peak of the layer, operator by operator with in-place reuse, minus the padded bytes of `reads`."""
    size = {s: padded_bytes(graph, s) for s in last}
    live = entry = sum(size[s] for s in reads)
    held = set(reads)
    peak = live
    for index in range(layer.start, layer.stop):
        may_die = {s for s in held if last[s] == index and (s in dying or (s not in reads and s not in outlives))}
        reusable = [s for s in write_over_candidates(graph, index) if s in may_die]
        for position, storage in enumerate(graph.op_writes[index]):
            if storage in held:
                continue
            held.add(storage)
            over = next((s for s in reusable if position == 0 and size[s] == size[storage]), None)
            if over is None:
                live += size[storage]
            else:
                may_die.discard(over)
                held.discard(over)
        peak = max(peak, live)
        unread = {s for s in graph.op_writes[index] if last[s] == index and s not in outlives}
        for storage in may_die | unread:
            held.discard(storage)
            live -= size[storage]
    return peak - entry
