"""Graph + cost table + budget → Problem: layers become tasks, storages that live across layers become values."""

from dataclasses import dataclass

from planc.costs.table import CostTable
from planc.graph.footprint import Footprint, footprints, padded_bytes
from planc.graph.graph import Graph, Role
from planc.graph.liveness import live_bytes
from planc.problem.problem import Origin, Problem, Task, Value

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
    """

    problem: Problem
    storages: tuple[int, ...]
    liveness_peak_bytes: int
    peak_layer: int
    scratch_bytes: int


def build_problem(graph: Graph, costs: CostTable) -> PlanningProblem:
    """The problem with an unlimited budget; `with_budget` narrows it. Raises DeviceError for another model's costs."""
    costs.check_model(graph.content_hash, len(graph.layers))
    prints = footprints(graph)
    storages = tuple(sorted({s for p in prints for s in (*p.reads, *p.writes)} | graph.output_storages))
    index = {storage: v for v, storage in enumerate(storages)}
    values = tuple(_value(graph, costs, storage) for storage in storages)
    tasks = tuple(
        Task(
            name=layer.title,
            duration_ns=costs.layer(i).compute_ns,
            reads=tuple(index[s] for s in p.reads),
            writes=tuple(index[s] for s in p.writes),
            working_bytes=p.working_bytes,
            recomputable=p.recomputable,
        )
        for i, (layer, p) in enumerate(zip(graph.layers, prints, strict=True))
    )
    peak, layer = _liveness_peak(graph, costs, prints)
    problem = Problem(tasks, values, peak, contention=costs.link.contention, boundary_ns=costs.boundary_ns)
    scratch = max((cost.scratch_bytes for cost in costs.unique), default=0) + _constant_bytes(graph, costs)
    return PlanningProblem(problem, storages, peak, layer, scratch)


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


def _liveness_peak(graph: Graph, costs: CostTable, prints: tuple[Footprint, ...]) -> tuple[int, int]:
    """(bytes, layer) of the peak when every storage is freed after its last use, each layer's scratch included."""
    needs = [live + costs.layer(i).scratch_bytes for i, live in enumerate(live_bytes(graph, prints))]
    peak = max(needs, default=0)
    return peak, needs.index(peak) if needs else 0
