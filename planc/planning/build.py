"""Graph + cost table + budget → Problem: layers become tasks, storages that live across layers become values."""

from collections.abc import Mapping
from dataclasses import dataclass

from planc.costs.table import CostTable, LayerCost
from planc.graph.footprint import Footprint, footprints, padded_bytes
from planc.graph.graph import Graph, Layer, Role
from planc.graph.liveness import live_bytes
from planc.problem.problem import Alternative, Origin, Problem, Task, Value
from planc.units import ALIGNMENT, HOST_ALIGNMENT, align_up

_SCRATCH_SLACK = 1024
"""Bytes added to the measured scratch of a layer: each of an operator's allocations is rounded up to the alignment."""

_ORIGINS = {
    Role.BATCH: Origin.BATCH,
    Role.STATE: Origin.STATE,
    Role.CONSTANT: Origin.CONSTANT,
    Role.COMPUTED: Origin.COMPUTED,
}


@dataclass(frozen=True)
class PlanningProblem:
    """A problem and how it maps back: `storages[v]` is the graph's storage behind value v; tasks are the layers.

    `liveness_peak_bytes` is the peak of the unconstrained step in the given order, each layer's scratch included;
    `scratch_bytes` is the largest scratch of a layer in any of its forms, and all layers' constants.
    `forms` has for each layer the names of its forms by choice (`Task.forms`), none where it runs in any. Where scratch
    is placed in the slab, `layer_scratch` has the bytes of every layer in each of its forms, which are part of the
    working bytes; else it is empty.
    """

    problem: Problem
    storages: tuple[int, ...]
    liveness_peak_bytes: int
    scratch_bytes: int
    forms: tuple[tuple[str, ...], ...]
    layer_scratch: tuple[tuple[int, ...], ...] = ()


def build_problem(
    graph: Graph, costs: CostTable, scratch_in_slab: bool = False, arena_bytes: int | None = None
) -> PlanningProblem:
    """The problem with a budget of the liveness peak.

    With `scratch_in_slab` a layer's scratch counts as its working bytes, and its form is a choice of the schedule. Else
    one arena of `arena_bytes` beside the slab serves all layers, by default as large as the neediest layer wants in its
    default form: forms that need more of it are left out, and the fastest of the others is what a layer does unless
    its default fits. Raises DeviceError for another model's costs.
    """
    costs.check_model(graph.content_hash, len(graph.layers))
    prints = footprints(graph)
    storages = tuple(sorted({s for p in prints for s in (*p.reads, *p.writes)} | graph.output_storages))
    index = {storage: v for v, storage in enumerate(storages)}
    exchanged = {s for i, p in enumerate(prints) if graph.is_exchange(i) for s in p.reads}
    values = tuple(_value(graph, costs, storage, storage not in exchanged) for storage in storages)
    layers = [costs.layer(i) for i in range(len(prints))]
    scratch = tuple(_scratch(cost.scratch_bytes, scratch_in_slab) for cost in layers)
    arena = None if scratch_in_slab else max(scratch, default=0) if arena_bytes is None else arena_bytes
    forms = [_forms(cost, p.working_bytes, arena) for cost, p in zip(layers, prints, strict=True)]
    tasks = tuple(_task(graph, costs, at, p, own, index) for at, (p, own) in enumerate(zip(prints, forms, strict=True)))
    peak = _liveness_peak(graph, scratch, prints)
    regions = tuple(
        tuple(form.working_bytes - p.working_bytes for form in own) for own, p in zip(forms, prints, strict=True)
    )
    return PlanningProblem(
        problem=Problem(
            tasks,
            values,
            peak,
            host_alignment=HOST_ALIGNMENT,
            contention=costs.contention,
            boundary_ns=costs.boundary_ns,
        ),
        storages=storages,
        liveness_peak_bytes=peak,
        scratch_bytes=(max(scratch, default=0) if arena is None else arena) + _constant_bytes(graph, costs),
        forms=tuple(
            tuple(form.name for form in own) if cost.alternatives else ()
            for own, cost in zip(forms, layers, strict=True)
        ),
        layer_scratch=regions if scratch_in_slab else (),
    )


def least_arena_bytes(graph: Graph, costs: CostTable) -> int:
    """The smallest arena in which every layer can run, in its leanest form."""
    layers = (costs.layer(i) for i in range(len(graph.layers)))
    return max((min(size for _, _, size in _choices(cost)) for cost in layers), default=0)


def _choices(cost: LayerCost) -> list[tuple[str, int, int]]:
    """Name, time (ns) and scratch (bytes) of every form of a layer, the default first."""
    others = ((name, form.compute_ns, form.scratch_bytes) for name, form in cost.alternatives.items())
    return [("", cost.compute_ns, cost.scratch_bytes), *others]


def _forms(cost: LayerCost, working: int, arena: int | None) -> tuple[Alternative, ...]:
    """The forms of a layer that needs `working` bytes besides its scratch: those that fit `arena`, or with none, all,
    their scratch in the slab; the default first, else the fastest."""
    if arena is None:
        return tuple(Alternative(name, ns, working + _scratch(size, True)) for name, ns, size in _choices(cost))
    fitting = [Alternative(name, ns, working) for name, ns, size in _choices(cost) if size <= arena]
    return tuple(sorted(fitting, key=lambda form: (form.name != "", form.duration_ns)))


def _scratch(measured: int, placed: bool) -> int:
    """Bytes of scratch of a layer as measured or, where it is `placed`, as its region will need."""
    return align_up(measured + _SCRATCH_SLACK, ALIGNMENT) if placed and measured else measured


def _constant_bytes(graph: Graph, costs: CostTable) -> int:
    """What constants take of the arena when every layer is in a session of its own, and once more when recomputed."""
    return 2 * sum(costs.layer(i).constant_bytes for i in range(len(graph.layers)))


def exchanged_bytes(graph: Graph, layer: Layer) -> int:
    """Bytes that the layer sums over the ranks."""
    return sum(graph.tensors[graph.ops[op].inputs[0]].nbytes for op in range(layer.start, layer.stop))


def _summed_bytes(graph: Graph, at: int) -> int:
    """Bytes of the sum over all ranks that takes as long as the exchange of layer `at`.

    In a ring such a sum of S bytes brings 2 (N - 1) / N S over each link. What has one rank as its root goes over all
    links but one: the busiest carries all bytes but those with the root that is named least.
    """
    layer = graph.layers[at]
    total, (_, roots) = exchanged_bytes(graph, layer), graph.exchange(at)
    if not roots:
        return total
    of_root = dict.fromkeys(range(graph.ranks), 0)
    for op, root in zip(range(layer.start, layer.stop), roots, strict=True):
        of_root[root] += graph.tensors[graph.ops[op].inputs[0]].nbytes
    return -(-(total - min(of_root.values())) * graph.ranks // (2 * (graph.ranks - 1)))


def _task(
    graph: Graph, costs: CostTable, at: int, print_: Footprint, forms: tuple[Alternative, ...], index: Mapping[int, int]
) -> Task:
    """The task of layer `at`, which runs in the first of its `forms` unless a schedule says otherwise."""
    layer = graph.layers[at]
    return Task(
        name=layer.title,
        duration_ns=forms[0].duration_ns,
        reads=tuple(index[s] for s in print_.reads),
        writes=tuple(index[s] for s in print_.writes),
        working_bytes=forms[0].working_bytes,
        recomputable=print_.recomputable,
        alternatives=forms[1:],
        kind=layer.kind,
        phase=layer.phase,
        exchange_ns=costs.exchange_ns(_summed_bytes(graph, at), graph.ranks) if graph.is_exchange(at) else 0,
    )


def _value(graph: Graph, costs: CostTable, storage: int, swappable: bool) -> Value:
    size = padded_bytes(graph, storage)
    out_ns, in_ns = costs.link.copy_ns(size)
    return Value(
        name=graph.storages[storage].name,
        bytes=size,
        origin=_ORIGINS[graph.storages[storage].role],
        swappable=swappable,
        copy_out_ns=out_ns,
        copy_in_ns=in_ns,
        needed_after_step=storage in graph.output_storages,
    )


def _liveness_peak(graph: Graph, scratch: tuple[int, ...], prints: tuple[Footprint, ...]) -> int:
    """Bytes of the peak when every storage is freed after its last use, each layer's scratch included."""
    return max((live + extra for live, extra in zip(live_bytes(graph, prints), scratch, strict=True)), default=0)
