"""What a device has to measure for the profiler, and the values that its layers run on."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from planc.costs.table import DeviceInfo, EngineCost, FormCost, LayerCost, Link
from planc.importer.import_model import ImportedModel
from planc.importer.submodel import Port, SubModel


class Meter(Protocol):
    """Measures on one device. Any exception of `layer` means that the layer does not run there."""

    def layer(self, imported: ImportedModel, model: SubModel) -> LayerCost:
        """Time, spread and scratch of one execution of `model`."""
        ...

    def engines(self, imported: ImportedModel) -> dict[str, tuple[EngineCost, ...]]:
        """The engines worth having of every call of planc's own operators that a library computes."""
        ...

    def workspace_forms(
        self, imported: ImportedModel, model: SubModel, cost: LayerCost, engines: Mapping[str, Sequence[EngineCost]]
    ) -> dict[str, FormCost]:
        """The layer, which costs that much, with engines that take less workspace."""
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

    def link(self, host_tier: str | None) -> Link:
        """Copies to the host tier and back, and what the engines cost each other; None means the device's usual tier."""
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


Array = np.ndarray[Any, Any]


def sample_value(imported: ImportedModel, port: Port, rng: np.random.Generator) -> Array:
    """An input's value: the initial state or constant where known, else one that keeps every operator in range."""
    tensor = imported.graph.tensors[port.tensor]
    known = imported.file.initial_values.get(tensor.name, imported.constants.get(tensor.name))
    if known is not None and known.shape == tensor.shape:
        return np.asarray(known, order="C")
    dtype = np.dtype(tensor.dtype)
    if dtype.kind == "f" or dtype.name == "bfloat16":
        return np.asarray(rng.random(tensor.shape, np.float32) + np.float32(0.01), dtype)  # of no rank: a number
    extent = _pooled_extent(imported, port.tensor)
    if extent is not None:
        count = int(np.prod(tensor.shape, dtype=np.int64))
        return (np.arange(count) * extent // count).reshape(tensor.shape).astype(dtype)
    low, high = imported.graph.input_ranges.get(tensor.name, (0, 1))
    return np.asarray(rng.integers(low, high, tensor.shape), dtype)


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


Progress = Callable[[int, int, str], None]
