"""The profiler: measures on this machine what every layer and every copy costs.

Each distinct layer is run as the segment it will be, with every tensor bound. How it is timed, and how its scratch is
found, differs between devices: a meter for each knows.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

import msgspec

from planc.costs.catalogue import unknown_device
from planc.costs.table import EXCHANGED, CostTable, EngineCost, LayerCost
from planc.devices import find_device
from planc.errors import DeviceError
from planc.graph.footprint import padded_bytes
from planc.importer.import_model import ImportedModel
from planc.importer.submodel import SubModel, sub_model
from planc.profiling.meter import Meter, Progress
from planc.profiling.once import Measured, OnceMeter
from planc.runtime.own_kernels import kernel_versions

_SESSIONS = 24
"""Layers whose sessions are held at once to see what one takes."""

_LONGEST_STRETCH = 500
"""Layers: a session of many thousand operators takes minutes to open."""


def open_meter(device: str) -> Meter:
    """The meter of a device in the list. Raises UsageError for another one, DeviceError for an unusable one."""
    found = find_device(device)
    if found is None:
        raise unknown_device(device)
    kind, index = found
    meter: Meter = kind.meter(index)
    return meter


def profile(
    imported: ImportedModel,
    device: str,
    progress: Progress = lambda *_: None,
    forms: bool = False,
    host_tier: str | None = None,
    measured: Measured | None = None,
) -> CostTable:
    """Measure `imported` on `device`, with `forms` other forms of layers too, and copies to `host_tier`.

    A plan may choose among forms that were measured; they need not give the bits of the default one. What is in
    `measured`, of other graphs on the same device, is not measured again. Raises DeviceError
    naming the layer that does not run, UsageError.
    """
    meter = OnceMeter(open_meter(device), measured or Measured())
    try:
        table = _profile(imported, meter, device, progress, forms, host_tier)
    except BaseException:
        with suppress(DeviceError):  # a card in a state of error refuses whatever comes after
            meter.close()
        raise
    meter.close()
    return table


def _profile(
    imported: ImportedModel, meter: Meter, device: str, progress: Progress, forms: bool, host_tier: str | None
) -> CostTable:
    graph = imported.graph
    progress(0, 1, "engines")
    engines = meter.engines(imported)
    table = {name: [(e.engine, e.workspace_bytes) for e in listed] for name, listed in engines.items()}
    imported = replace(imported, engines=table)
    models = [sub_model(imported, range(layer.start, layer.stop)) for layer in graph.layers]
    first: dict[str, int] = {}
    for position, model in enumerate(models):
        first.setdefault(model.signature, position)
    costs = []
    for done, position in enumerate(first.values()):
        layer = graph.layers[position]
        progress(done, len(first), layer.title)
        if graph.is_exchange(position):
            costs.append(EXCHANGED)
            continue
        try:
            costs.append(_measured(meter, imported, models[position], engines, forms))
        except Exception as error:  # ONNX Runtime raises types of its own that share no base
            raise DeviceError(f"layer {layer.title!r} does not run on {device}: {error}") from error
    index = {signature: rank for rank, signature in enumerate(first)}
    layers = tuple(index[model.signature] for model in models)
    progress(len(first), len(first), "stretches of layers")
    costs = _in_context(imported, meter, costs, layers)
    progress(len(first), len(first), "sessions")
    session_bytes = meter.session_bytes(imported, _examples([models[position] for position in first.values()], costs))
    progress(len(first), len(first), "copies")
    link, boundary_ns = meter.link(host_tier), meter.boundary_ns()
    found = meter.device()
    versions = found.versions | kernel_versions(imported, found.kind)
    return CostTable(
        model_hash=graph.content_hash,
        unique=tuple(costs),
        engines=engines,
        layers=layers,
        link=link,
        boundary_ns=boundary_ns,
        device=msgspec.structs.replace(found, session_bytes=session_bytes, versions=versions),
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _examples(models: Sequence[SubModel], costs: Sequence[LayerCost]) -> Sequence[SubModel]:
    """A few distinct layers without scratch and constants, so that what their sessions take is the sessions' own."""
    pairs = [(model, cost) for model, cost in zip(models, costs, strict=True) if cost is not EXCHANGED]
    bare = [model for model, cost in pairs if not cost.scratch_bytes + cost.constant_bytes]
    chosen = bare if len(bare) > 1 else [model for model, _ in pairs]
    return chosen[:: max(1, len(chosen) // _SESSIONS)][:_SESSIONS]


def _measured(
    meter: Meter, imported: ImportedModel, model: SubModel, engines: Mapping[str, Sequence[EngineCost]], forms: bool
) -> LayerCost:
    """A layer's costs in all its forms. Those by other engines are kept though they save nothing: a layer without a choice
    runs in whatever form its segment has, and would be computed by one engine here and another there."""
    cost = meter.layer(imported, model)
    found = meter.forms(imported, model) if forms else {}
    useful = {
        name: form
        for name, form in found.items()
        if form.scratch_bytes < cost.scratch_bytes or form.compute_ns < cost.compute_ns
    }
    return msgspec.structs.replace(cost, alternatives=meter.workspace_forms(imported, model, cost, engines) | useful)


def _in_context(
    imported: ImportedModel, meter: Meter, costs: Sequence[LayerCost], layers: Sequence[int]
) -> list[LayerCost]:
    """Costs scaled so that they add up to what stretches of layers take: alone, a layer finds other bytes in caches."""
    ratios: list[list[float]] = [[] for _ in costs]
    for begin, end in _stretches(imported, meter.stretch_bytes):
        model = sub_model(imported, range(imported.graph.layers[begin].start, imported.graph.layers[end - 1].stop))
        alone = sum(costs[layers[i]].compute_ns for i in range(begin, end))
        ratio = meter.stretch(imported, model) / alone
        for i in range(begin, end):
            ratios[layers[i]].append(ratio)
    return [
        _scaled(cost, statistics.fmean(ratio)) if ratio else cost for cost, ratio in zip(costs, ratios, strict=True)
    ]


def _scaled(cost: LayerCost, ratio: float) -> LayerCost:
    forms = {
        name: msgspec.structs.replace(form, compute_ns=max(1, round(form.compute_ns * ratio)))
        for name, form in cost.alternatives.items()
    }
    return msgspec.structs.replace(cost, compute_ns=max(1, round(cost.compute_ns * ratio)), alternatives=forms)


def _stretches(imported: ImportedModel, limit: int) -> Iterator[tuple[int, int]]:
    """Half-open ranges of at most `_LONGEST_STRETCH` layers whose storages together stay within `limit` bytes."""
    graph = imported.graph
    begin, held, size = 0, set[int](), 0
    for index, layer in enumerate(graph.layers):
        if graph.is_exchange(index):
            if begin < index:
                yield begin, index
            begin, held, size = index + 1, set(), 0
            continue
        touched = {s for op in range(layer.start, layer.stop) for s in (*graph.op_reads[op], *graph.op_writes[op])}
        full = index - begin == _LONGEST_STRETCH
        if full or size + sum(padded_bytes(graph, s) for s in touched - held) > limit:
            if begin < index:
                yield begin, index
            begin, held, size = index, set(), 0
        size += sum(padded_bytes(graph, s) for s in touched - held)
        held |= touched
        if size > limit:  # this layer alone does not fit
            begin, held, size = index + 1, set(), 0
    if begin < len(graph.layers):
        yield begin, len(graph.layers)
