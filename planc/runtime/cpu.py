"""The CPU as a device: a slab in memory, sessions of the CPU provider, one thread for each copy
direction, and one for exchanges where there are other ranks.

Compute runs on the calling thread, so queueing a segment is running it; copies run beside it and their kernels release
the interpreter lock.
"""

import contextlib
import mmap
import queue
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnx import helper

from planc.enums import ExchangeKind
from planc.errors import DeviceError, InternalError, PlancError
from planc.importer.submodel import SubModel
from planc.runtime.cpu_session import cpu_session
from planc.runtime.device import Engine, Event, LoadedSegment, TensorAddress
from planc.runtime.ort.binding import bound_to
from planc.runtime.ort.sessions import (
    Run,
    planned_options,
    read_scratch,
    record_scratch,
    reserve_arena,
)
from planc.runtime.ranks.gloo import GlooSums
from planc.runtime.ranks.group import RankGroup
from planc.runtime.scratch import ScratchPlaces, ScratchRegion, own_segment, scratch_allocator
from planc.runtime.signals import signals_wait
from planc.runtime.tiers import chosen_tier, open_tier, populated
from planc.units import HOST_ALIGNMENT, format_bytes


@dataclass(frozen=True, slots=True)
class _Bound:
    """A session with its bindings and its scratch."""

    session: ort.InferenceSession
    run: Run
    scratch: ScratchRegion


class _Done:
    """An event that is already past: compute is synchronous."""

    def wait(self) -> None:
        return


class _Mark:
    """An event in a worker's queue."""

    def __init__(self, worker: "_Worker") -> None:
        self.worker = worker
        self.passed = threading.Event()

    def wait(self) -> None:
        self.passed.wait()
        if isinstance(self.worker.error, PlancError):
            raise self.worker.error
        if self.worker.error is not None:
            raise DeviceError(
                f"a copy on engine {self.worker.name!r} failed: {self.worker.error}"
            ) from self.worker.error


class _Worker(threading.Thread):
    """One copy engine: takes calls and marks in order until None.

    It keeps the first error and skips the calls after it, but passes every mark, so that nobody waits for ever.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.queue: queue.SimpleQueue[Callable[[], None] | _Mark | None] = queue.SimpleQueue()
        self.error: BaseException | None = None

    def run(self) -> None:
        while (item := self.queue.get()) is not None:
            if isinstance(item, _Mark):
                item.passed.set()
            elif self.error is None:
                try:
                    item()
                except BaseException as error:  # handed to the thread that waits
                    self.error = error


class CpuDevice:
    """ONNX Runtime's CPU provider over one slab of `slab_bytes`, with a host slab of `host_bytes` on `host_tier`.

    Operators take scratch from the slab where segments say so (`with_scratch`), else from `scratch_bytes` beside it.
    With `measure` that scratch is measured in the process-wide arena too. Raises DeviceError when memory is refused.
    """

    kind = "cpu"
    index = 0
    bound_to_thread = False
    counts_seeds_up = True

    def __init__(
        self,
        slab_bytes: int,
        host_bytes: int,
        scratch_bytes: int,
        host_tier: str | None = "ram",
        measure: bool = False,
    ) -> None:
        self._allocator = scratch_allocator()
        if self._allocator is None:
            reserve_arena(scratch_bytes)
        self._map, self._slab = _mapped(slab_bytes, "slab")
        self._base: int = self._slab.ctypes.data
        self._arena_map, self._arena = _mapped(scratch_bytes if self._allocator else 0, "scratch")
        self._beside = ScratchRegion(self._arena.ctypes.data, scratch_bytes)
        self._inside: list[ScratchRegion] = []
        self._stats = tempfile.TemporaryDirectory(prefix="planc-") if measure and not self._allocator else None
        self._size = slab_bytes
        self._tier = open_tier(chosen_tier(host_tier), host_bytes)
        self._sessions: dict[tuple[object, ...], ort.InferenceSession] = {}
        self._sums: GlooSums | None = None
        self._run_options = ort.RunOptions()
        self._workers = {Engine.OUT: _Worker("copy-out"), Engine.IN: _Worker("copy-in")}
        self._closed = False
        try:
            for worker in self._workers.values():
                worker.start()
        except RuntimeError as error:
            self.close()
            raise DeviceError(f"the system refuses a thread for copies: {error}") from error

    @property
    def peak_scratch_bytes(self) -> int:
        """Most scratch beside the slab that was in use at once since loading."""
        files = Path(self._stats.name).glob("*.csv") if self._stats else ()
        return max((read_scratch(file) for file in files), default=self._beside.peak)

    @property
    def peak_slab_scratch_bytes(self) -> int:
        """Most scratch inside the slab that was in use at once since loading."""
        return max((region.peak for region in self._inside), default=0)

    @property
    def memory_bytes(self) -> int:
        """Memory that the plan takes here: slab, scratch beside it, and what of the host tier lies in memory."""
        exchanged = self._sums.memory_bytes if self._sums else 0
        return self._size + self._beside.size + self._tier.memory_bytes + exchanged

    @property
    def session_count(self) -> int:
        """Number of distinct sessions loaded so far."""
        return len(self._sessions)

    def load(self, model: SubModel, addresses: Mapping[str, TensorAddress], form: str = "") -> LoadedSegment:
        """Create or reuse the session of `model` and bind its ports."""
        if form:
            raise DeviceError(f"the plan runs layers in the form {form!r}, but on the CPU every layer has one form")
        session = self._sessions.get(model.session_key)
        if session is None:
            options = planned_options()
            if self._stats:
                record_scratch(options, Path(self._stats.name) / f"{len(self._sessions)}.csv")
            try:
                with signals_wait():  # it calls the allocator, in Python, where nothing may be raised
                    session = cpu_session(model.model_bytes, options)
            except Exception as error:  # ONNX Runtime raises types of its own that share no base
                raise DeviceError(f"ONNX Runtime refuses a segment of the model: {error}") from error
            self._sessions[model.session_key] = session
        return _Bound(session, bound_to(session, model, addresses, self._base, "cpu"), self._beside)

    def with_scratch(self, segment: LoadedSegment, offset: int, size: int) -> LoadedSegment:
        """The segment with its scratch in the slab. Raises DeviceError where ONNX Runtime keeps its own allocator."""
        bound = own_segment(segment, _Bound, "the CPU")
        self._inside.append(ScratchPlaces(self._allocator, self._base, self._size).region(offset, size))
        return replace(bound, scratch=self._inside[-1])

    def unload(self, segment: LoadedSegment) -> None:
        """Drop the segment's session."""
        session = own_segment(segment, _Bound, "the CPU").session
        self._sessions = {key: own for key, own in self._sessions.items() if own is not session}

    def launch(self, segment: LoadedSegment) -> None:
        """Run the segment now."""
        bound = own_segment(segment, _Bound, "the CPU")
        self._check_open()
        if self._allocator is not None:
            self._allocator.enter(bound.scratch)
        try:
            bound.run(self._run_options)
        except Exception as error:  # ONNX Runtime raises types of its own that share no base
            raise DeviceError(f"ONNX Runtime failed inside a segment: {error}") from error
        finally:
            if self._allocator is not None:
                self._allocator.leave()

    def copy(self, engine: Engine, slab_offset: int, host_offset: int, size: int) -> None:
        """Queue the transfer on the direction's thread."""
        self._check_open()
        view = memoryview(self._map)[slab_offset : slab_offset + size]
        move = self._tier.store if engine is Engine.OUT else self._tier.fetch
        self._workers[engine].queue.put(lambda: move(host_offset, view))

    def join(self, group: RankGroup) -> None:
        """Start the thread that exchanges."""
        self._sums = GlooSums(group, f"sums.{group.serial()}")
        self._workers[Engine.EXCHANGE] = worker = _Worker("exchange")
        worker.start()

    def exchange(self, kind: ExchangeKind, tensors: Sequence[TensorAddress], roots: Sequence[int]) -> None:
        """Queue the exchange on the thread for such."""
        sums = self._sums
        if sums is None:
            raise DeviceError("the device has joined no other ranks")
        arrays = [self._array(t.offset, helper.tensor_dtype_to_np_dtype(t.element_type), t.shape) for t in tensors]
        self._workers[Engine.EXCHANGE].queue.put(lambda: sums.exchange(kind, arrays, roots))

    def record(self, engine: Engine) -> Event:
        """Compute events are past at once; a copy thread sets its event when it gets there."""
        if engine is Engine.COMPUTE:
            return _Done()
        mark = _Mark(self._workers[engine])
        mark.worker.queue.put(mark)
        return mark

    def wait(self, engine: Engine, event: Event) -> None:
        """The compute engine is this thread; a copy thread waits inside its queue."""
        if isinstance(event, _Done):
            return
        if not isinstance(event, _Mark):
            raise InternalError("an event of another device was awaited on the CPU")
        if engine is Engine.COMPUTE:
            event.wait()
        else:
            self._workers[engine].queue.put(event.wait)

    def synchronize(self) -> None:
        """Wait for all threads and raise what they met."""
        for engine in tuple(self._workers):
            event = self.record(engine)
            self.wait(Engine.COMPUTE, event)

    def recover(self) -> None:
        """Let the copy threads come to the end of their queues, and forget what they met."""
        for engine, worker in self._workers.items():
            with contextlib.suppress(PlancError):
                self.wait(Engine.COMPUTE, self.record(engine))
            worker.error = None

    def capture(self, queue: Callable[[], None]) -> Callable[[], None]:
        """Queueing is running here: nothing to save."""
        return queue

    def write_slab(self, offset: int, value: np.ndarray) -> None:
        """Copy `value` to the slab."""
        self._array(offset, value.dtype, value.shape)[...] = value

    def read_slab(self, offset: int, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        """A copy of an array in the slab."""
        return self._array(offset, dtype, shape).copy()

    def _array(self, offset: int, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        self._check_open()
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if offset + size > self._size:
            raise InternalError(f"{size} bytes at {offset} lie outside the slab of {self._size}")
        return self._slab[offset : offset + size].view(dtype).reshape(shape)

    def write_host(self, offset: int, value: np.ndarray) -> None:
        """Store `value` on the host tier, at the start of a slot."""
        self._check_open()
        self._tier.store(offset, np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)

    def read_host(self, offset: int, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        """Fetch an array from the host tier, from anywhere in a slot."""
        self._check_open()
        size, before = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize, offset % HOST_ALIGNMENT
        data = np.empty(before + size, np.uint8)
        self._tier.fetch(offset - before, data.data)
        return data[before:].view(dtype).reshape(shape)

    def _check_open(self) -> None:
        """What was mapped is gone after closing: touching it would end the process."""
        if self._closed:
            raise DeviceError("the step is closed: load the plan again")

    def close(self) -> None:
        """Stop the threads, drop sessions, slab and host slab."""
        if self._closed:
            return
        self._closed = True
        for worker in self._workers.values():
            worker.queue.put(None)
        for worker in self._workers.values():
            if worker.ident is not None:  # else it was refused
                worker.join()
        if self._sums is not None:
            self._sums.close()
        self._sessions.clear()
        if self._stats:
            self._stats.cleanup()
        self._tier.close()
        del self._slab, self._arena
        for memory in (self._map, self._arena_map):
            with contextlib.suppress(BufferError):
                memory.close()


def _mapped(size: int, purpose: str) -> tuple[mmap.mmap, np.ndarray]:
    """Memory of `size` bytes, at least a page, as it is and as an array. Raises DeviceError when it is refused."""
    try:
        memory = populated(max(size, mmap.PAGESIZE))
    except (OSError, ValueError) as error:
        raise DeviceError(f"the {purpose} needs {format_bytes(size)}, which the system refuses") from error
    return memory, np.frombuffer(memory, np.uint8)


def open_cpu(
    slab_bytes: int, host_bytes: int, scratch_bytes: int, host_tier: str | None, measure: bool, _index: int
) -> CpuDevice:
    """The CPU with memory for one plan; there is one only."""
    return CpuDevice(slab_bytes, host_bytes, scratch_bytes, host_tier, measure)


def usable() -> bool:
    """Every machine has a CPU."""
    return True


def fuses() -> bool:
    """Fused operators have no kernels here: their parts run as ONNX Runtime's own operators."""
    return False
