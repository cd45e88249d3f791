"""The profiler: measures on this machine what every layer and every copy costs.

Each distinct layer is run as the segment it will be, with every tensor bound. How it is timed, and how its scratch is
found, differs between devices: a meter for each knows.
"""

import statistics
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec
import numpy as np

from planc.costs.catalogue import unknown_device
from planc.costs.table import CostTable, DeviceInfo, FormCost, LayerCost, Link
from planc.errors import DeviceError
from planc.graph.footprint import padded_bytes
from planc.importer.build import ImportedModel
from planc.importer.submodel import Port, SubModel, sub_model

Array = np.ndarray[Any, Any]
Progress = Callable[[int, int, str], None]


_SESSIONS = 24
"""Layers whose sessions are held at once to see what one takes."""


class Meter(Protocol):
    """Measures on one device. Any exception of `layer` means that the layer does not run there."""

    def layer(self, imported: ImportedModel, model: SubModel) -> LayerCost:
        """Time, spread and scratch of one execution of `model`."""
        ...

    def forms(self, imported: ImportedModel, model: SubModel) -> dict[str, FormCost]:
        """The other forms of a layer, by name; none where the device has no choice."""
        ...

    @property
    def stretch_bytes(self) -> int:
        """Most memory that `stretch` may take; 0 where it is not needed."""
        ...

    def stretch(self, imported: ImportedModel, model: SubModel) -> int:
        """Time in ns of consecutive layers in each other's company."""
        ...

    def link(self) -> Link:
        """Copies to the host tier and back, and what the engines cost each other."""
        ...

    def boundary_ns(self) -> int:
        """Time that one more segment takes."""
        ...

    def session_bytes(self, imported: ImportedModel, models: Sequence[SubModel]) -> int:
        """Device memory that one more distinct session on the same stream takes; `models` are examples."""
        ...

    def device(self) -> DeviceInfo:
        """The device, after everything else was measured."""
        ...

    def close(self) -> None: ...


def open_meter(device: str) -> Meter:
    """The meter of `cpu` or `cuda[:index]`. Raises UsageError for another device, DeviceError for an unusable one."""
    kind, _, index = device.partition(":")
    if device == "cpu":
        from planc.costs.profile_cpu import CpuMeter

        return CpuMeter()
    if kind == "cuda" and (not index or index.isdigit()):
        from planc.costs.profile_cuda import CudaMeter

        return CudaMeter(int(index or 0))
    raise unknown_device(device)


def profile(
    imported: ImportedModel, device: str, progress: Progress = lambda *_: None, forms: bool = False
) -> CostTable:
    """Measure `imported` on `device`, with `forms` other forms of layers too.

    A plan may choose among forms that were measured; they need not give the bits of the default one. Raises DeviceError
    naming the layer that does not run, UsageError.
    """
    meter = open_meter(device)
    try:
        return _profile(imported, meter, device, progress, forms)
    finally:
        meter.close()


def _profile(imported: ImportedModel, meter: Meter, device: str, progress: Progress, forms: bool) -> CostTable:
    graph = imported.graph
    models = [sub_model(imported, range(layer.start, layer.stop)) for layer in graph.layers]
    first: dict[str, int] = {}
    for position, model in enumerate(models):
        first.setdefault(model.signature, position)
    costs = []
    for done, position in enumerate(first.values()):
        layer = graph.layers[position]
        progress(done, len(first), layer.title)
        try:
            costs.append(_measured(meter, imported, models[position], forms))
        except Exception as error:  # ONNX Runtime raises types of its own that share no base
            raise DeviceError(f"layer {layer.title!r} does not run on {device}: {error}") from error
    index = {signature: rank for rank, signature in enumerate(first)}
    layers = tuple(index[model.signature] for model in models)
    progress(len(first), len(first), "stretches of layers")
    costs = _in_context(imported, meter, costs, layers)
    progress(len(first), len(first), "sessions")
    session_bytes = meter.session_bytes(imported, _examples([models[position] for position in first.values()], costs))
    progress(len(first), len(first), "copies")
    return CostTable(
        model_hash=graph.content_hash,
        unique=tuple(costs),
        layers=layers,
        link=meter.link(),
        boundary_ns=meter.boundary_ns(),
        device=msgspec.structs.replace(meter.device(), session_bytes=session_bytes),
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _examples(models: Sequence[SubModel], costs: Sequence[LayerCost]) -> Sequence[SubModel]:
    """A few distinct layers without scratch and constants, so that what their sessions take is the sessions' own."""
    bare = [model for model, cost in zip(models, costs, strict=True) if not cost.scratch_bytes + cost.constant_bytes]
    chosen = bare if len(bare) > 1 else models
    return chosen[:: max(1, len(chosen) // _SESSIONS)][:_SESSIONS]


def _measured(meter: Meter, imported: ImportedModel, model: SubModel, forms: bool) -> LayerCost:
    cost = meter.layer(imported, model)
    found = meter.forms(imported, model) if forms else {}
    useful = {
        name: form
        for name, form in found.items()
        if form.scratch_bytes < cost.scratch_bytes or form.compute_ns < cost.compute_ns
    }
    return msgspec.structs.replace(cost, alternatives=useful)


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
        _scaled(cost, statistics.fmean(ratio)) if ratio else cost
        for cost, ratio in zip(costs, ratios, strict=True)
    ]


def _scaled(cost: LayerCost, ratio: float) -> LayerCost:
    forms = {
        name: msgspec.structs.replace(form, compute_ns=max(1, round(form.compute_ns * ratio)))
        for name, form in cost.alternatives.items()
    }
    return msgspec.structs.replace(cost, compute_ns=max(1, round(cost.compute_ns * ratio)), alternatives=forms)


def _stretches(imported: ImportedModel, limit: int) -> Iterator[tuple[int, int]]:
    """Half-open ranges of layers whose storages together stay within `limit` bytes."""
    graph = imported.graph
    begin, held, size = 0, set[int](), 0
    for index, layer in enumerate(graph.layers):
        touched = {s for op in range(layer.start, layer.stop) for s in (*graph.op_reads[op], *graph.op_writes[op])}
        if size + sum(padded_bytes(graph, s) for s in touched - held) > limit:
            if begin < index:
                yield begin, index
            begin, held, size = index, set(), 0
        size += sum(padded_bytes(graph, s) for s in touched - held)
        held |= touched
        if size > limit:  # this layer alone does not fit
            begin, held, size = index + 1, set(), 0
    if begin < len(graph.layers):
        yield begin, len(graph.layers)


def sample_value(imported: ImportedModel, port: Port, rng: np.random.Generator) -> Array:
    """An input's value: the initial state or constant where known, else one that keeps every operator in range."""
    tensor = imported.graph.tensors[port.tensor]
    known = imported.file.initial_values.get(tensor.name, imported.constants.get(tensor.name))
    if known is not None and known.shape == tensor.shape:
        return np.asarray(known, order="C")
    dtype = np.dtype(tensor.dtype)
    if dtype.kind == "f" or dtype.name == "bfloat16":
        return (rng.random(tensor.shape, np.float32) + np.float32(0.01)).astype(dtype)
    extent = _pooled_extent(imported, port.tensor)
    if extent is not None:
        count = int(np.prod(tensor.shape, dtype=np.int64))
        return (np.arange(count) * extent // count).reshape(tensor.shape).astype(dtype)
    low, high = imported.graph.input_ranges.get(tensor.name, (0, 1))
    return rng.integers(low, high, tensor.shape).astype(dtype)


def _pooled_extent(imported: ImportedModel, tensor: int) -> int | None:
    """Number of values that positions made by a MaxPool point into, None for any other tensor.

    They must be spread as pooling spreads them: zeros would make all of a scattered gradient meet in one element.
    """
    graph = imported.graph
    makers = {graph.tensors[t].storage: (op, k) for op in graph.ops for k, t in enumerate(op.outputs) if t >= 0}
    op, output = makers.get(graph.tensors[tensor].storage, (None, 0))
    while op is not None and op.op_type == "Cast":
        op, output = makers.get(graph.tensors[op.inputs[0]].storage, (None, 0))
    if op is None or op.op_type != "MaxPool" or output != 1:
        return None
    return int(np.prod(graph.tensors[op.inputs[0]].shape, dtype=np.int64))
