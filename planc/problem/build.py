"""Graph + cost table + budget → Problem: layers become tasks, storages that live across layers become values."""

from dataclasses import dataclass

from planc.costs.table import CostTable, LayerCost
from planc.graph.footprint import ALIGNMENT, Footprint, footprints, padded_bytes
from planc.graph.graph import Graph, Role
from planc.graph.liveness import live_bytes
from planc.problem.problem import Alternative, Origin, Problem, Task, Value
from planc.units import align_up

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

    `liveness_peak_bytes` is the peak of the unconstrained step in the given order, each layer's scratch included, at
    layer `peak_layer`; `scratch_bytes` is the largest scratch of a layer, and all layers' constants.
    Where scratch is placed in the slab, `layer_scratch` has the bytes of every layer in each of its forms
    (`Task.forms`), which are part of the working bytes; else it is empty.
    """

    problem: Problem
    storages: tuple[int, ...]
    liveness_peak_bytes: int
    peak_layer: int
    scratch_bytes: int
    layer_scratch: tuple[tuple[int, ...], ...] = ()


def build_problem(graph: Graph, costs: CostTable, scratch_in_slab: bool = False) -> PlanningProblem:
    """The problem with a budget of the liveness peak.

    With `scratch_in_slab` a layer's scratch counts as its working bytes, and its alternative forms are choices of the
    schedule. Beside the slab one arena serves all layers: forms that need more of it than any layer as it stands are
    left out. Raises DeviceError for another model's costs.
    """
    costs.check_model(graph.content_hash, len(graph.layers))
    prints = footprints(graph)
    storages = tuple(sorted({s for p in prints for s in (*p.reads, *p.writes)} | graph.output_storages))
    index = {storage: v for v, storage in enumerate(storages)}
    values = tuple(_value(graph, costs, storage) for storage in storages)
    scratch = tuple(_scratch(costs.layer(i).scratch_bytes, scratch_in_slab) for i in range(len(prints)))
    most = max(scratch, default=0)
    forms = [_alternatives(costs.layer(i), p.working_bytes, most, scratch_in_slab) for i, p in enumerate(prints)]
    tasks = tuple(
        Task(
            name=layer.title,
            duration_ns=costs.layer(i).compute_ns,
            reads=tuple(index[s] for s in p.reads),
            writes=tuple(index[s] for s in p.writes),
            working_bytes=p.working_bytes + (scratch[i] if scratch_in_slab else 0),
            recomputable=p.recomputable,
            alternatives=forms[i],
        )
        for i, (layer, p) in enumerate(zip(graph.layers, prints, strict=True))
    )
    peak, layer = _liveness_peak(graph, scratch, prints)
    problem = Problem(tasks, values, peak, contention=costs.link.contention, boundary_ns=costs.boundary_ns)
    regions = tuple(
        tuple(form.working_bytes - p.working_bytes for form in task.forms) for task, p in zip(tasks, prints, strict=True)
    )
    most += _constant_bytes(graph, costs)
    return PlanningProblem(problem, storages, peak, layer, most, regions if scratch_in_slab else ())


def _alternatives(cost: LayerCost, working: int, arena: int, placed: bool) -> tuple[Alternative, ...]:
    """The other forms of a layer that needs `working` bytes besides scratch, with their scratch where it is `placed`."""
    return tuple(
        Alternative(name, form.compute_ns, working + (_scratch(form.scratch_bytes, placed) if placed else 0))
        for name, form in cost.alternatives.items()
        if placed or form.scratch_bytes <= arena
    )


def _scratch(measured: int, placed: bool) -> int:
    """Bytes of scratch of a layer as measured or, where it is `placed`, as its region will need."""
    return align_up(measured + _SCRATCH_SLACK, ALIGNMENT) if placed and measured else measured


def _constant_bytes(graph: Graph, costs: CostTable) -> int:
    """What constants take of the arena when every layer is in a session of its own, and once more when recomputed."""
    return 2 * sum(costs.layer(i).constant_bytes for i in range(len(graph.layers)))


def _value(graph: Graph, costs: CostTable, storage: int) -> Value:
    size = padded_bytes(graph, storage)
    out_ns, in_ns = costs.link.copy_ns(size)
    return Value(
        name=graph.storages[storage].name,
        bytes=size,
        origin=_ORIGINS[graph.storages[storage].role],
        swappable=True,
        copy_out_ns=out_ns,
        copy_in_ns=in_ns,
        needed_after_step=storage in graph.output_storages,
    )


def _liveness_peak(graph: Graph, scratch: tuple[int, ...], prints: tuple[Footprint, ...]) -> tuple[int, int]:
    """(bytes, layer) of the peak when every storage is freed after its last use, each layer's scratch included."""
    needs = [live + extra for live, extra in zip(live_bytes(graph, prints), scratch, strict=True)]
    peak = max(needs, default=0)
    return peak, needs.index(peak) if needs else 0
