"""The CPU's meter: wall-clock time of whole runs; scratch is what ONNX Runtime itself reports for each operator."""

import mmap
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from planc.costs.table import DeviceInfo, EngineCost, FormCost, LayerCost, Link
from planc.importer.import_model import ImportedModel
from planc.importer.submodel import SubModel, element_type
from planc.profiling.boundary import measure_boundary
from planc.profiling.cpu_link import measure_link
from planc.profiling.host import host_info
from planc.profiling.meter import Array, sample_value
from planc.runtime.cpu_session import cpu_session
from planc.runtime.device import TensorAddress
from planc.runtime.onednn.operators import workspace_bytes
from planc.runtime.ort.binding import bound_to
from planc.runtime.ort.sessions import (
    Run,
    faithful_options,
    planned_options,
    read_scratch,
    record_scratch,
    versions,
)
from planc.runtime.scratch import ScratchRegion, scratch_allocator
from planc.runtime.tiers import chosen_tier

_WARM_RUNS = 1
_TARGET_NS = 60_000_000
"""A layer is repeated until about this long has been measured …"""

_MIN_RUNS = 3
"""… but at least so often, for a median …"""

_MAX_RUNS = 30
"""… and no more often: small layers are many."""

_FREE_SHARE, _LARGEST_STRETCH = 4, 1 << 30
"""Layers are measured in company in stretches that take at most this share of the free memory, and so many bytes."""

_ROOM, _NO_RESERVE = 1 << 36, 0x4000
"""Addresses for scratch, and Linux's flag that none of them needs memory before it is used."""


@dataclass(frozen=True)
class _Arrays:
    """Real values for a sub-model's inputs and places for its outputs."""

    inputs: dict[str, Array]
    outputs: dict[str, Array]


class CpuMeter:
    """Measures on the CPU provider with all cores of this process."""

    def __init__(self) -> None:
        self._host = host_info()

    def layer(self, imported: ImportedModel, model: SubModel) -> LayerCost:
        """Median of repeated runs once warm."""
        arrays = _arrays(imported, model)
        times = _times(imported, model, arrays)
        median = int(statistics.median(times))
        spread = int(statistics.median(abs(t - median) for t in times))
        return LayerCost(compute_ns=max(1, median), scratch_bytes=_scratch(imported, model, arrays), spread_ns=spread)

    def engines(self, _imported: ImportedModel) -> dict[str, tuple[EngineCost, ...]]:
        """None: on the CPU planc's own operators are standard ones."""
        return {}

    def workspace_forms(self, *_: object) -> dict[str, FormCost]:
        """None, since no library is asked."""
        return {}

    def forms(self, _imported: ImportedModel, _model: SubModel) -> dict[str, FormCost]:
        """None: ONNX Runtime's CPU kernels offer no choice that keeps the bits."""
        return {}

    @property
    def stretch_bytes(self) -> int:
        """A share of the memory that was free before measuring."""
        return min(self._host.free_bytes // _FREE_SHARE, _LARGEST_STRETCH)

    def stretch(self, imported: ImportedModel, model: SubModel) -> int:
        """Median time of the stretch: repeated alone, a small layer finds its inputs in caches."""
        return int(statistics.median(_times(imported, model, _arrays(imported, model))))

    def link(self, host_tier: str | None) -> Link:
        """Copies to a file and back, or through memory where that was asked for."""
        return measure_link(chosen_tier(host_tier))

    def boundary_ns(self) -> int:
        """Host time of one more segment."""
        return measure_boundary()

    def session_bytes(self, _imported: ImportedModel, _models: Sequence[SubModel]) -> int:
        """Sessions live in host memory outside the slab's budget."""
        return 0

    def device(self) -> DeviceInfo:
        """The processor, and what memory it had free before measuring."""
        host = self._host
        return DeviceInfo(
            name=host.name, kind="cpu", memory_bytes=host.free_bytes, threads=host.threads, versions=versions()
        )

    def close(self) -> None:
        """Nothing is held."""


def open_meter(_index: int) -> CpuMeter:
    """The meter of this machine's CPU."""
    return CpuMeter()


def _arrays(imported: ImportedModel, model: SubModel) -> _Arrays:
    rng, tensors = np.random.default_rng(0), imported.graph.tensors
    return _Arrays(
        {port.name: sample_value(imported, port, rng) for port in model.inputs},
        {port.name: np.empty(tensors[port.tensor].shape, tensors[port.tensor].dtype) for port in model.outputs},
    )


def _bound(imported: ImportedModel, model: SubModel, session: ort.InferenceSession, arrays: _Arrays) -> Run:
    """The session on the arrays, which must outlive the result."""
    values, addresses = {**arrays.inputs, **arrays.outputs}, {}
    for port in (*model.inputs, *model.outputs):
        array = values[port.name]
        addresses[port.name] = TensorAddress(array.ctypes.data, element_type(imported, port.tensor), array.shape)
    return bound_to(session, model, addresses, 0, "cpu")


def _times(imported: ImportedModel, model: SubModel, arrays: _Arrays) -> Sequence[int]:
    session = cpu_session(model.model_bytes)
    run, options = _bound(imported, model, session, arrays), ort.RunOptions()

    def once() -> int:
        start = time.perf_counter_ns()
        run(options)
        return time.perf_counter_ns() - start

    for _ in range(_WARM_RUNS):
        estimate = once()
    repeats = min(_MAX_RUNS, max(_MIN_RUNS, _TARGET_NS // max(1, estimate)))
    return [once() for _ in range(repeats)]


def _scratch(imported: ImportedModel, model: SubModel, arrays: _Arrays) -> int:
    """Most bytes of scratch in use at once, handed out as to a segment of a plan."""
    allocator = scratch_allocator()
    if allocator is None:
        return _reported_scratch(imported, model, arrays)
    session = cpu_session(model.model_bytes, planned_options())
    run = _bound(imported, model, session, arrays)
    with mmap.mmap(-1, _ROOM, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE) as room:
        region = ScratchRegion(np.frombuffer(room, np.uint8).ctypes.data, _ROOM)
        allocator.enter(region)
        try:
            run(ort.RunOptions())
        finally:
            allocator.leave()
    return region.peak


def _reported_scratch(imported: ImportedModel, model: SubModel, arrays: _Arrays) -> int:
    """Largest sum of temporary allocations of one operator, as ONNX Runtime reports them."""
    with tempfile.TemporaryDirectory() as folder:
        stats = Path(folder) / "stats.csv"
        options = faithful_options()
        record_scratch(options, stats)
        session = cpu_session(model.model_bytes, options)
        _bound(imported, model, session, arrays)(ort.RunOptions())
        del session
        return max(read_scratch(stats), workspace_bytes(model.model_bytes))
