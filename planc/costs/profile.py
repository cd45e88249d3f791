"""The profiler: measures on this machine what every layer and every copy costs.

Each distinct layer is run as the segment it will be, with every tensor bound; its time is the median of repeated runs
once warm. Scratch is what ONNX Runtime itself reports for each operator.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from planc.costs.boundary import measure_boundary
from planc.costs.host import HostInfo, host_info
from planc.costs.link import measure_link
from planc.costs.table import CostTable, DeviceInfo, LayerCost
from planc.errors import DeviceError
from planc.importer.build import ImportedModel
from planc.importer.submodel import Port, SubModel, element_type, sub_model
from planc.runtime.ort import faithful_options, read_scratch, record_scratch, versions

_WARM_RUNS = 1
_MIN_RUNS, _MAX_RUNS = 3, 30
_TARGET_NS = 60_000_000
"""A layer is repeated until about this long has been measured, within the limits above."""

Array = np.ndarray[Any, Any]
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class _Arrays:
    """Real values for a sub-model's inputs and places for its outputs."""

    inputs: dict[str, Array]
    outputs: dict[str, Array]


def profile_cpu(imported: ImportedModel, progress: Progress = lambda *_: None) -> CostTable:
    """Measure `imported` on the CPU provider. Raises DeviceError naming the layer that does not run."""
    host = host_info()
    graph = imported.graph
    models = [sub_model(imported, range(layer.start, layer.stop)) for layer in graph.layers]
    order = list(dict.fromkeys(model.signature for model in models))
    first = {signature: next(i for i, m in enumerate(models) if m.signature == signature) for signature in order}
    costs = []
    for done, signature in enumerate(order):
        layer = graph.layers[first[signature]]
        progress(done, len(order), layer.title)
        try:
            costs.append(_measure(imported, models[first[signature]]))
        except Exception as error:  # ONNX Runtime raises types of its own that share no base
            raise DeviceError(f"layer {layer.title!r} does not run on the CPU: {error}") from error
    progress(len(order), len(order), "copies")
    index = {signature: position for position, signature in enumerate(order)}
    return CostTable(
        model_hash=graph.content_hash,
        device=_device(host),
        unique=tuple(costs),
        layers=tuple(index[model.signature] for model in models),
        link=measure_link(),
        boundary_ns=measure_boundary(),
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _device(host: HostInfo) -> DeviceInfo:
    return DeviceInfo(
        name=host.name, kind="cpu", memory_bytes=host.free_bytes, threads=host.threads, versions=versions()
    )


def _measure(imported: ImportedModel, model: SubModel) -> LayerCost:
    arrays = _arrays(imported, model)
    times = _times(imported, model, arrays)
    median = int(statistics.median(times))
    spread = int(statistics.median(abs(t - median) for t in times))
    return LayerCost(compute_ns=max(1, median), scratch_bytes=_scratch(imported, model, arrays), spread_ns=spread)


def _arrays(imported: ImportedModel, model: SubModel) -> _Arrays:
    """Inputs: the initial state where known, else values that keep every operator in range."""
    rng = np.random.default_rng(0)
    tensors, known = imported.graph.tensors, {**imported.file.initial_values, **imported.constants}

    def value(port: Port) -> Array:
        tensor = tensors[port.tensor]
        if tensor.name in known and known[tensor.name].shape == tensor.shape:
            return np.asarray(known[tensor.name], order="C")
        dtype = np.dtype(tensor.dtype)
        if dtype.kind == "f" or dtype.name == "bfloat16":
            return (rng.random(tensor.shape, np.float32) + np.float32(0.01)).astype(dtype)
        low, high = imported.graph.input_ranges.get(tensor.name, (0, 1))
        return rng.integers(low, high, tensor.shape).astype(dtype)

    return _Arrays(
        {port.name: value(port) for port in model.inputs},
        {port.name: np.empty(tensors[port.tensor].shape, tensors[port.tensor].dtype) for port in model.outputs},
    )


def _bind(
    imported: ImportedModel, model: SubModel, session: ort.InferenceSession, arrays: _Arrays
) -> ort.SessionIOBinding:
    binding = session.io_binding()
    for port in model.inputs:
        a = arrays.inputs[port.name]
        binding.bind_input(port.name, "cpu", 0, element_type(imported, port.tensor), a.shape, a.ctypes.data)
    for port in model.outputs:
        a = arrays.outputs[port.name]
        binding.bind_output(port.name, "cpu", 0, element_type(imported, port.tensor), a.shape, a.ctypes.data)
    return binding


def _times(imported: ImportedModel, model: SubModel, arrays: _Arrays) -> Sequence[int]:
    session = ort.InferenceSession(model.model_bytes, faithful_options(), providers=["CPUExecutionProvider"])
    binding = _bind(imported, model, session, arrays)
    run, raw, options = session._sess.run_with_iobinding, binding._iobinding, ort.RunOptions()

    def once() -> int:
        start = time.perf_counter_ns()
        run(raw, options)
        return time.perf_counter_ns() - start

    for _ in range(_WARM_RUNS):
        estimate = once()
    repeats = min(_MAX_RUNS, max(_MIN_RUNS, _TARGET_NS // max(1, estimate)))
    return [once() for _ in range(repeats)]


def _scratch(imported: ImportedModel, model: SubModel, arrays: _Arrays) -> int:
    """Largest sum of temporary allocations of one operator, as ONNX Runtime reports them."""
    with tempfile.TemporaryDirectory() as folder:
        stats = Path(folder) / "stats.csv"
        options = faithful_options()
        record_scratch(options, stats)
        session = ort.InferenceSession(model.model_bytes, options, providers=["CPUExecutionProvider"])
        binding = _bind(imported, model, session, arrays)
        session._sess.run_with_iobinding(binding._iobinding, ort.RunOptions())
        del binding, session
        return read_scratch(stats)
