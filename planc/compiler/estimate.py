"""What one training step needs, from the graph alone: before profiling, in seconds.

Memory is exact but for the scratch of operators, which is estimated for cards and unknown for a device that was never
measured. Times are the catalogue's rooflines.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx

from planc.compiler.job import CompileJob
from planc.costs.cards import CARDS
from planc.costs.catalogue import card_names, estimate
from planc.costs.store import read_costs
from planc.costs.table import CostTable
from planc.graph.footprint import Footprint, footprints, padded_bytes
from planc.graph.graph import Graph, Role
from planc.graph.liveness import live_bytes
from planc.importer.import_model import ImportedModel, import_for, import_model
from planc.profiling.target import target_of
from planc.schedule.simulate import unlimited_ns

_REFERENCE_CARD = "h100"
"""Whose scratch and times are told where the device has no table and is no card."""

_CONTEXT_BYTES = 600 << 20
"""What a card's context, kernels and handles take beside a plan (docs/gpu.md)."""


@dataclass(frozen=True, slots=True)
class CardFit:
    """A card of the catalogue: whether the step fits without a plan and with one, and the unlimited step (ns)."""

    card: str
    memory_bytes: int
    fits: bool
    fits_planned: bool
    step_ns: int


@dataclass(frozen=True)
class Estimate:
    """What a step needs, in bytes. Tensors are counted whole, as if all of a kind were there at once, but for the peaks.

    `saved` are the tensors that the forward pass leaves for the backward one, by the kind of layer that reads them; one
    that several kinds read counts for each, and once in `saved_bytes`. `largest_working_bytes` is the most that one
    layer needs beside what it reads, `minimum_budget_bytes` the least that any plan needs; `host_bytes` what would lie
    on the host with everything swapped that can be.
    """

    operators: int
    layers: int
    parameters_bytes: int
    optimizer_bytes: int
    gradients_bytes: int
    saved_bytes: int
    saved: Mapping[str, int]
    batch_bytes: int
    constants_bytes: int
    largest_working_bytes: int
    largest_working_layer: str
    scratch_bytes: int
    scratch_device: str
    liveness_peak_bytes: int
    liveness_peak_layer: str
    minimum_budget_bytes: int
    minimum_layer: str
    host_bytes: int
    cards: tuple[CardFit, ...]

    def as_json(self) -> dict[str, object]:
        """One JSON object."""
        return asdict(self)


def estimate_step(
    model: str | Path | onnx.ModelProto | ImportedModel,
    device: str = "auto",
    costs: str | Path | CostTable | None = None,
) -> Estimate:
    """What a training step needs on a device. Raises ModelError, UsageError for an unknown device, DeviceError for
    costs of another model."""
    table = read_costs(Path(costs)) if isinstance(costs, (str, Path)) else costs
    if isinstance(model, ImportedModel):
        imported = model
    else:
        imported = import_for(model, table.model_hash) if table is not None else import_model(model)
    card = target_of(device).card or _REFERENCE_CARD
    table = table or estimate(imported.graph, card, imported.calls)
    return _estimate(imported.graph, CompileJob.of(imported, table), table)


def _estimate(graph: Graph, job: CompileJob, table: CostTable) -> Estimate:
    prints, problem = footprints(graph), job.usual.problem
    live = live_bytes(graph, prints)
    at = max(range(len(live)), key=lambda i: live[i] + table.layer(i).scratch_bytes)
    kinds, least = _kinds(graph, prints), min(range(len(prints)), key=lambda i: -problem.entry_bytes(i))
    working = max(range(len(prints)), key=lambda i: prints[i].working_bytes)
    saved = _saved(graph, prints)
    return Estimate(
        operators=job.imported.operators,
        layers=job.imported.layers,
        parameters_bytes=kinds["parameters"],
        optimizer_bytes=kinds["optimizer"],
        gradients_bytes=kinds["gradients"],
        saved_bytes=sum(padded_bytes(graph, s) for s in saved),
        saved=_by_reader(graph, prints, saved),
        batch_bytes=kinds["batch"],
        constants_bytes=kinds["constants"],
        largest_working_bytes=prints[working].working_bytes,
        largest_working_layer=graph.layers[working].title,
        scratch_bytes=job.usual.scratch_bytes,
        scratch_device=table.device.name,
        liveness_peak_bytes=job.usual.liveness_peak_bytes,
        liveness_peak_layer=graph.layers[at].title,
        minimum_budget_bytes=job.least_bytes,
        minimum_layer=graph.layers[least].title,
        host_bytes=sum(problem.host_bytes(v) for v, value in enumerate(problem.values) if value.swappable),
        cards=tuple(_fit(graph, job.imported, name) for name in card_names() if not name.startswith("roofline")),
    )


def _fit(graph: Graph, imported: ImportedModel, name: str) -> CardFit:
    job, memory = CompileJob.of(imported, estimate(graph, name, imported.calls)), CARDS[name].memory_bytes
    free = memory - _CONTEXT_BYTES
    step = unlimited_ns(job.usual.problem)
    return CardFit(name, memory, job.roomy_bytes <= free, job.least_bytes <= free, step)


def _kinds(graph: Graph, prints: tuple[Footprint, ...]) -> dict[str, int]:
    """Bytes of storages by what they are for: parameters are the state that a layer other than an update reads."""
    phases: dict[int, set[str]] = defaultdict(set)
    for layer, p in zip(graph.layers, prints, strict=True):
        for storage in p.reads:
            phases[storage].add(layer.phase)
    made = {s: layer.phase for layer, p in zip(graph.layers, prints, strict=True) for s in p.writes}
    found: dict[str, int] = defaultdict(int)
    for storage in sorted(graph.used_storages):
        role, size = graph.storages[storage].role, padded_bytes(graph, storage)
        if role is Role.STATE:
            found["parameters" if phases[storage] & {"forward", "backward"} else "optimizer"] += size
        elif role is Role.BATCH:
            found["batch"] += size
        elif role is Role.CONSTANT:
            found["constants"] += size
        elif made.get(storage) == "backward" and "update" in phases[storage]:
            found["gradients"] += size
    return found


def _saved(graph: Graph, prints: tuple[Footprint, ...]) -> set[int]:
    forward = {s for layer, p in zip(graph.layers, prints, strict=True) if layer.phase == "forward" for s in p.writes}
    later = {s for layer, p in zip(graph.layers, prints, strict=True) if layer.phase == "backward" for s in p.reads}
    return {s for s in forward & later if graph.storages[s].role is Role.COMPUTED}


def _by_reader(graph: Graph, prints: tuple[Footprint, ...], saved: set[int]) -> dict[str, int]:
    readers: dict[str, set[int]] = defaultdict(set)
    for layer, p in zip(graph.layers, prints, strict=True):
        if layer.phase == "backward":
            readers[layer.kind].update(saved.intersection(p.reads))
    sizes = {kind: sum(padded_bytes(graph, s) for s in held) for kind, held in readers.items() if held}
    return dict(sorted(sizes.items(), key=lambda item: -item[1]))
