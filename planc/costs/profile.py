"""The profiler: measures on this machine what every layer and every copy costs.

Each distinct layer is run as the segment it will be, with every tensor bound. How it is timed, and how its scratch is
found, differs between devices: a meter for each knows.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Protocol

import numpy as np

from planc.costs.table import CostTable, DeviceInfo, LayerCost, Link
from planc.errors import DeviceError, UsageError
from planc.importer.build import ImportedModel
from planc.importer.submodel import Port, SubModel, sub_model

Array = np.ndarray[Any, Any]
Progress = Callable[[int, int, str], None]


class Meter(Protocol):
    """Measures on one device. Any exception of `layer` means that the layer does not run there."""

    def layer(self, imported: ImportedModel, model: SubModel) -> LayerCost:
        """Time, spread and scratch of one execution of `model`."""
        ...

    def link(self) -> Link:
        """Copies to the host tier and back, and what the engines cost each other."""
        ...

    def boundary_ns(self) -> int:
        """Time that one more segment takes."""
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
    raise UsageError(f"unknown device {device!r}: this planc measures and runs on cpu, cuda and cuda:INDEX")


def profile(imported: ImportedModel, device: str, progress: Progress = lambda *_: None) -> CostTable:
    """Measure `imported` on `device`. Raises DeviceError naming the layer that does not run, UsageError."""
    meter = open_meter(device)
    try:
        return _profile(imported, meter, device, progress)
    finally:
        meter.close()


def _profile(imported: ImportedModel, meter: Meter, device: str, progress: Progress) -> CostTable:
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
            costs.append(meter.layer(imported, models[position]))
        except Exception as error:  # ONNX Runtime raises types of its own that share no base
            raise DeviceError(f"layer {layer.title!r} does not run on {device}: {error}") from error
    progress(len(first), len(first), "copies")
    index = {signature: rank for rank, signature in enumerate(first)}
    return CostTable(
        model_hash=graph.content_hash,
        unique=tuple(costs),
        layers=tuple(index[model.signature] for model in models),
        link=meter.link(),
        boundary_ns=meter.boundary_ns(),
        device=meter.device(),
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


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
    storage = graph.tensors[tensor].storage
    for op in graph.ops:
        if op.op_type == "MaxPool" and len(op.outputs) > 1 and graph.tensors[op.outputs[1]].storage == storage:
            return int(np.prod(graph.tensors[op.inputs[0]].shape, dtype=np.int64))
    return None
