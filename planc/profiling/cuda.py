"""The CUDA meter: layers replayed as CUDA graphs between events, scratch counted allocation by allocation.

A layer is recorded several times over buffers of its own in one graph, so that neither launching nor a warm cache
flatters it: in a step most of what a layer reads was written long ago.
"""

import ctypes
import gc
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from planc.costs.table import DeviceInfo, EngineCost, FormCost, LayerCost, Link
from planc.devices import device_name
from planc.graph.footprint import padded_bytes
from planc.importer.import_model import ImportedModel
from planc.importer.submodel import Port, SubModel, element_type
from planc.kernels.engines import WORKSPACE_FORMS, chosen
from planc.profiling.cuda_engines import EngineMeter
from planc.profiling.cuda_link import LinkMeter
from planc.profiling.meter import Array, sample_value
from planc.runtime.cuda.driver import Context, allocate, call, elapsed_ns, new_event, new_stream
from planc.runtime.cuda.graph import Replay, record
from planc.runtime.cuda.handle_sharing import shared_handle
from planc.runtime.cuda.provider import FORMS, cuda_session, library_versions, load_libraries, run_options
from planc.runtime.device import TensorAddress
from planc.runtime.ort.binding import bound_to
from planc.runtime.ort.sessions import Run, versions
from planc.runtime.tiers import require_pinned
from planc.units import ALIGNMENT, align_up

_COLD_BYTES = 128 << 20
"""Copies of a layer's buffers are made until they hold this much: more than twice an H100's second-level cache."""

_MAX_COPIES = 16
_GRAPH_NS, _MAX_REPEATS = 2_000_000, 64
"""A graph repeats the layer until it lasts about this long, within the limit."""

_ENGINE_NS = 500_000
"""As long for a graph that repeats a library's call."""

_STRETCH_BYTES = 6 << 30
"""Stretches of layers are timed within this much memory."""

_REPLAYS = 5
_POOL_BYTES = 64 << 20
_SMALL_BYTES = 1 << 20
_SETTLE_NS = 400_000_000
_CONVOLUTIONS = {"Conv", "ConvTranspose"}
_DEFAULT: Mapping[str, str] = {}


class CudaMeter:
    """Measures on card `index`. Raises DeviceError when CUDA or ONNX Runtime's provider is not usable."""

    def __init__(self, index: int = 0) -> None:
        load_libraries()
        self._context = Context(index)
        self._index, self._stream = index, new_stream()
        self._work = _Work()
        self._rng = np.random.default_rng(0)
        self._link: LinkMeter | None = None
        self._settled = False

    def layer(self, imported: ImportedModel, model: SubModel) -> LayerCost:
        """Median of replays; the largest sum of live scratch allocations of one run."""
        places = self._places(imported, model)
        self._work.reserve(places[0].size * len(places))
        self._fill(imported, model, places)
        scratch, constants = self._scratch(imported, model, places[0])
        times = self._times(imported, model, places)
        median = statistics.median(times)
        spread = statistics.median(abs(t - median) for t in times)
        return LayerCost(
            compute_ns=max(1, round(median)),
            scratch_bytes=scratch,
            spread_ns=round(spread),
            constant_bytes=constants,
        )

    def engines(self, imported: ImportedModel) -> dict[str, tuple[EngineCost, ...]]:
        """Those of cuDNN, each call over buffers of its own."""
        meter = EngineMeter(int(self._stream), self._reserved, self._fill_random, self._time_of)
        return meter.measure(imported)

    def _reserved(self, size: int) -> int:
        self._work.reserve(size)
        return self._work.address

    def _fill_random(self, address: int, size: int, element: int) -> None:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(element)
        self._work.fill_random(
            address - self._work.address, size, dtype.name, self._stream, int(self._rng.integers(1 << 20))
        )

    def _time_of(self, run: Any) -> float:
        """ns of one run, from replays of a graph of several."""
        run()
        call("cuStreamSynchronize", self._stream)
        once = self._elapsed(run)
        repeats = max(3, min(_MAX_REPEATS, round(_ENGINE_NS / max(once, 1))))

        def queue() -> None:
            for _ in range(repeats):
                run()

        replay = record(queue, self._stream, ())
        if not self._settled:
            self._settle(replay)
        times = [self._elapsed(replay) / repeats for _ in range(3)]
        replay.close()
        return statistics.median(times)

    def workspace_forms(
        self, imported: ImportedModel, model: SubModel, cost: LayerCost, engines: Mapping[str, Sequence[EngineCost]]
    ) -> dict[str, FormCost]:
        """Times follow from those of the engines; scratch is counted."""
        calls = [node.op_type for node in onnx.load_model_from_string(model.model_bytes).graph.node]
        calls = [name for name in calls if len(engines.get(name, ())) > 1]
        if not calls:
            return {}
        place, found, seen = self._places(imported, model)[0], dict[str, FormCost](), {_engines_of(calls, engines, "")}
        for form in WORKSPACE_FORMS:
            taken = _engines_of(calls, engines, form)
            if taken in seen:
                continue
            seen.add(taken)
            slower = sum(e.compute_ns - engines[name][0].compute_ns for name, e in zip(calls, taken, strict=True))
            scratch, _ = self._scratch(imported, model, place, form=form)
            found[form] = FormCost(compute_ns=cost.compute_ns + slower, scratch_bytes=scratch)
        return found

    def forms(self, imported: ImportedModel, model: SubModel) -> dict[str, FormCost]:
        """Time and scratch of a layer with convolutions under every other setting."""
        if not _CONVOLUTIONS & {node.op_type for node in onnx.load_model_from_string(model.model_bytes).graph.node}:
            return {}
        places = self._places(imported, model)
        found = {}
        for name, settings in FORMS.items():
            scratch, _ = self._scratch(imported, model, places[0], settings)
            times = self._times(imported, model, places, settings=settings)
            found[name] = FormCost(compute_ns=max(1, round(statistics.median(times))), scratch_bytes=scratch)
        return found

    def session_bytes(self, imported: ImportedModel, models: Sequence[SubModel]) -> int:
        """What the driver has less of for each session after the first, once every one ran."""
        held: list[ort.InferenceSession] = []
        free: list[int] = []
        stream = int(self._stream)
        for model in models:
            place = self._places(imported, model)[0]
            self._work.reserve(place.size)
            self._fill(imported, model, [place])
            with shared_handle(stream):
                held.append(cuda_session(model.model_bytes, self._index, stream))
            self._bind(imported, model, held[-1], place)(ort.RunOptions())
            free.append(self._context.info().free_bytes + self._work.bytes_held)
        held.clear()
        return max(0, (free[0] - free[-1]) // (len(models) - 1)) if len(models) > 1 else 0

    @property
    def stretch_bytes(self) -> int:
        """A part of what the card has free."""
        return min(_STRETCH_BYTES, self._context.info().free_bytes // 4)

    def stretch(self, imported: ImportedModel, model: SubModel) -> int:
        """Median of replays of the layers as one segment, every storage at an address of its own."""
        at, homes, offsets = 0, dict[int, int](), {}
        for port in (*model.inputs, *model.outputs):
            storage = imported.graph.tensors[port.tensor].storage
            if storage not in homes:
                homes[storage] = at
                at += padded_bytes(imported.graph, storage)
            offsets[port.name] = homes[storage] + imported.graph.tensors[port.tensor].offset
        places = [_Place(at, offsets)]
        self._work.reserve(at)
        self._fill(imported, model, places)
        return max(1, round(statistics.median(self._times(imported, model, places, repeats=2))))

    def _places(self, imported: ImportedModel, model: SubModel) -> "list[_Place]":
        """Offsets of every port, for as many copies as make the layer's buffers cold."""
        at, offsets = 0, {}
        for port in (*model.inputs, *model.outputs):
            offsets[port.name] = at
            at += align_up(max(_size(imported, port), 1), ALIGNMENT)
        count = max(1, min(_MAX_COPIES, -(-_COLD_BYTES // max(at, 1))))
        return [_Place(at, {name: offset + i * at for name, offset in offsets.items()}) for i in range(count)]

    def _fill(self, imported: ImportedModel, model: SubModel, places: "Sequence[_Place]") -> None:
        """Random values from a pool where a tensor is large and of real numbers, proper ones elsewhere."""
        for port in model.inputs:
            tensor = imported.graph.tensors[port.tensor]
            size = _size(imported, port)
            real = np.dtype(tensor.dtype).kind == "f" or tensor.dtype == "bfloat16"
            value = None if real and size > _SMALL_BYTES else sample_value(imported, port, self._rng)
            for place in places:
                if value is None:
                    self._work.fill_random(place.offsets[port.name], size, tensor.dtype, self._stream)
                else:
                    self._work.write(place.offsets[port.name], value, self._stream)
        call("cuStreamSynchronize", self._stream)

    def _bind(self, imported: ImportedModel, model: SubModel, session: ort.InferenceSession, place: "_Place") -> Run:
        addresses = {
            port.name: TensorAddress(
                place.offsets[port.name],
                element_type(imported, port.tensor),
                imported.graph.tensors[port.tensor].shape,
            )
            for port in (*model.inputs, *model.outputs)
        }
        return bound_to(session, model, addresses, self._work.address, "cuda", self._index)

    def _scratch(
        self,
        imported: ImportedModel,
        model: SubModel,
        place: "_Place",
        settings: Mapping[str, str] = _DEFAULT,
        form: str = "",
    ) -> tuple[int, int]:
        """Peak of live scratch over two runs, and the session's constants; each allocation rounded as the arena does."""
        allocator = _CountingAllocator()
        session = cuda_session(model.model_bytes, self._index, extra={**allocator.options(), **settings}, form=form)
        run = self._bind(imported, model, session, place)
        constants = allocator.live
        allocator.keep()
        for _ in range(2):
            run(ort.RunOptions())
        del run, session
        return allocator.peak, constants

    def _times(
        self,
        imported: ImportedModel,
        model: SubModel,
        places: "Sequence[_Place]",
        repeats: int = 0,
        settings: Mapping[str, str] = _DEFAULT,
    ) -> list[float]:
        """ns of one run, replayed `repeats` times in one graph, as often as pays when 0."""
        session = cuda_session(model.model_bytes, self._index, int(self._stream), extra=settings)
        runs, options = [self._bind(imported, model, session, place) for place in places], run_options()
        for run in (runs[0], *runs):
            run(ort.RunOptions())
        once = self._elapsed(lambda: runs[0](options))
        repeats = repeats or max(3, len(runs), min(_MAX_REPEATS, round(_GRAPH_NS / max(once, 1))))

        def queue() -> None:
            for i in range(repeats):
                runs[i % len(runs)](options)

        try:
            replay: Any = record(queue, self._stream, ())
        except Exception:  # ONNX Runtime's own types: what cannot be recorded is timed as it is launched
            replay = queue
        if not self._settled:
            self._settle(replay)
        times = [self._elapsed(replay) / repeats for _ in range(_REPLAYS + 1)][1:]
        if isinstance(replay, Replay):
            replay.close()
        runs[0](ort.RunOptions())
        return times

    def _settle(self, replay: Any) -> None:
        """Keep the card busy until its clocks have risen."""
        spent = 0.0
        while spent < _SETTLE_NS:
            spent += self._elapsed(replay)
        self._settled = True

    def _elapsed(self, queue: Any) -> float:
        start, end = new_event(timing=True), new_event(timing=True)
        call("cuEventRecord", start, self._stream)
        queue()
        call("cuEventRecord", end, self._stream)
        call("cuStreamSynchronize", self._stream)
        time = elapsed_ns(start, end)
        call("cuEventDestroy", start)
        call("cuEventDestroy", end)
        return time

    def link(self, host_tier: str | None) -> Link:
        """Copies between device and page-locked memory. Raises UsageError for another `host_tier`."""
        require_pinned(host_tier)
        self._release()
        gc.collect()
        self._link = LinkMeter(self._index)
        return self._link.measure()

    def boundary_ns(self) -> int:
        """Device time of one more hand-over between streams within a replayed step."""
        if self._link is None:
            self._link = LinkMeter(self._index)
        return self._link.boundary_ns()

    def device(self) -> DeviceInfo:
        """The card; memory is what is free once the context and the libraries are there."""
        self._release()
        info = self._context.info()
        major, minor = info.capability
        known = {
            **versions(),
            **library_versions(),
            "driver": info.driver_version,
            "capability": f"{major}.{minor}",
        }
        return DeviceInfo(
            name=info.name,
            kind=device_name("cuda", self._index),
            memory_bytes=info.free_bytes,
            threads=info.multiprocessors,
            versions=known,
        )

    def _release(self) -> None:
        self._work.release()
        if self._link is not None:
            self._link.close()
            self._link = None

    def close(self) -> None:
        """Free the buffers, the stream and the context."""
        self._release()
        call("cuStreamDestroy", self._stream)
        self._context.close()


@dataclass(frozen=True)
class _Place:
    """One copy of a layer's buffers: bytes in all, offset of every port in the work memory."""

    size: int
    offsets: dict[str, int]


@dataclass
class _Work:
    """Device memory that grows as layers need it, and a pool of random numbers to fill it from."""

    address: int = 0
    size: int = 0
    pools: dict[str, int] = field(default_factory=dict)

    def reserve(self, size: int) -> None:
        """Make the work memory at least `size` bytes; what it held is lost."""
        if size > self.size:
            if self.address:
                call("cuMemFree", self.address)
            self.address, self.size = 0, 0
            self.address, self.size = allocate(size, "measuring a layer"), size

    @property
    def bytes_held(self) -> int:
        """What it has of the device."""
        return self.size + _POOL_BYTES * len(self.pools)

    def write(self, offset: int, value: Array, stream: Any) -> None:
        """Copy a host array."""
        array = np.ascontiguousarray(value)
        call("cuMemcpyHtoDAsync", self.address + offset, array.ctypes.data, array.nbytes, stream)
        call("cuStreamSynchronize", stream)

    def fill_random(self, offset: int, size: int, dtype: str, stream: Any, shift: int = 0) -> None:
        """Fill with numbers in [0.01, 1.01), other ones for another `shift`."""
        pool = self.pools.get(dtype) or self._new_pool(dtype, stream)
        skipped = shift * 16 % (_POOL_BYTES // 2)
        for at in range(0, size, _POOL_BYTES - skipped):
            part = min(_POOL_BYTES - skipped, size - at)
            call("cuMemcpyDtoDAsync", self.address + offset + at, pool + skipped, part, stream)

    def _new_pool(self, dtype: str, stream: Any) -> int:
        count = _POOL_BYTES // np.dtype(dtype).itemsize
        values = (np.random.default_rng(0).random(count, np.float32) + np.float32(0.01)).astype(dtype)
        pool = self.pools[dtype] = allocate(_POOL_BYTES, "measuring layers")
        call("cuMemcpyHtoDAsync", pool, values.ctypes.data, values.nbytes, stream)
        call("cuStreamSynchronize", stream)
        return pool

    def release(self) -> None:
        """Free everything."""
        for address in (*self.pools.values(), *((self.address,) if self.address else ())):
            call("cuMemFree", address)
        self.pools.clear()
        self.address = self.size = 0


def _engines_of(calls: Sequence[str], engines: Mapping[str, Sequence[EngineCost]], form: str) -> tuple[EngineCost, ...]:
    """The engines of a layer's calls in a form."""
    table = {name: [(e.engine, e.workspace_bytes) for e in engines[name]] for name in calls}
    names = chosen(table, form)
    return tuple(next(e for e in engines[name] if e.engine == names[name]) for name in calls)


def _size(imported: ImportedModel, port: Port) -> int:
    tensor = imported.graph.tensors[port.tensor]
    return int(np.prod(tensor.shape, dtype=np.int64)) * np.dtype(tensor.dtype).itemsize


class _CountingAllocator:
    """A device allocator for one session that knows how many bytes are live, and how many a region must have from which
    they are handed out one after the other, starting over whenever all are given back."""

    def __init__(self) -> None:
        self.live = self.peak = 0
        self._kept = self._used = 0
        self._sizes: dict[int, int] = {}
        self._alloc = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_size_t)(self._allocate)
        self._free = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self._release)
        self._empty = ctypes.CFUNCTYPE(None)(lambda: None)

    def keep(self) -> None:
        """What is live now stays: count anew."""
        self._kept, self._used, self.peak = self.live, 0, 0

    def options(self) -> dict[str, str]:
        """Provider options that make a session use this allocator; keep the allocator until the session is gone."""
        functions = {"alloc": self._alloc, "free": self._free, "empty_cache": self._empty}
        return {f"gpu_external_{name}": str(ctypes.cast(f, ctypes.c_void_p).value) for name, f in functions.items()}

    def _allocate(self, size: int) -> int:
        try:
            address = allocate(size, "an operator's scratch")
        except Exception:  # an exception must not cross into C; null is how C says that memory is refused
            return 0
        self._sizes[address] = align_up(max(size, 1), ALIGNMENT)
        self.live += self._sizes[address]
        self._used += self._sizes[address]
        self.peak = max(self.peak, self._used)
        return address

    def _release(self, address: int | None) -> None:
        if address:
            self.live -= self._sizes.pop(address, 0)
            if self.live == self._kept:
                self._used = 0
            call("cuMemFree", address)
