"""The CPU as a device: a slab in memory, sessions of the CPU provider, one thread for each copy direction.

Compute runs on the calling thread, so queueing a segment is running it; copies run beside it and their kernels release
the interpreter lock.
"""

import contextlib
import mmap
import queue
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from planc.errors import DeviceError, InternalError
from planc.importer.submodel import SubModel
from planc.runtime.device import Engine, Event, Segment, TensorAddress
from planc.runtime.ort import faithful_options, read_scratch, record_scratch, reserve_scratch, share_scratch
from planc.runtime.tiers import open_tier, populated
from planc.units import format_bytes


@dataclass(frozen=True, slots=True)
class _Bound:
    """A session with its bindings; `binding` keeps the addresses alive."""

    run: Callable[..., None]
    binding: ort.SessionIOBinding


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
        if self.worker.error is not None:
            raise DeviceError(f"a copy on engine {self.worker.name!r} failed: {self.worker.error}") from self.worker.error


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
                except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
                    self.error = error


class CpuDevice:
    """ONNX Runtime's CPU provider over one slab of `slab_bytes`, with a host slab of `host_bytes` on `host_tier`.

    `scratch_bytes` bounds the operators' scratch (see `planc.runtime.ort`). With `measure`, `peak_scratch_bytes` tells
    what was used. Raises DeviceError when memory is refused.
    """

    kind = "cpu"
    index = 0

    def __init__(
        self, slab_bytes: int, host_bytes: int, scratch_bytes: int, host_tier: str = "ram", measure: bool = False
    ) -> None:
        reserve_scratch(scratch_bytes)
        try:
            self._map = populated(max(slab_bytes, mmap.PAGESIZE))
        except (OSError, ValueError) as error:
            raise DeviceError(f"the slab needs {format_bytes(slab_bytes)}, which the system refuses") from error
        self._slab = np.frombuffer(self._map, np.uint8)
        self._base: int = self._slab.ctypes.data
        self._size = slab_bytes
        self._tier = open_tier(host_tier, host_bytes)
        self._sessions: dict[str, ort.InferenceSession] = {}
        self._workers = {Engine.OUT: _Worker("copy-out"), Engine.IN: _Worker("copy-in")}
        for worker in self._workers.values():
            worker.start()
        self._run_options = ort.RunOptions()
        self._closed = False
        self._stats = tempfile.TemporaryDirectory(prefix="planc-") if measure else None

    @property
    def peak_scratch_bytes(self) -> int:
        """Largest scratch of one operator since loading, from ONNX Runtime's own statistics; 0 unless measured."""
        files = Path(self._stats.name).glob("*.csv") if self._stats else ()
        return max((read_scratch(file) for file in files), default=0)

    @property
    def session_count(self) -> int:
        """Number of distinct sessions loaded so far."""
        return len(self._sessions)

    def load(self, model: SubModel, addresses: Mapping[str, TensorAddress]) -> Segment:
        """Create or reuse the session of `model` and bind its ports."""
        session = self._sessions.get(model.signature)
        if session is None:
            options = faithful_options()
            share_scratch(options)
            if self._stats:
                record_scratch(options, Path(self._stats.name) / f"{len(self._sessions)}.csv")
            try:
                session = ort.InferenceSession(
                    model.model_bytes, options, providers=["CPUExecutionProvider"]
                )
            except Exception as error:  # ONNX Runtime raises types of its own that share no base
                raise DeviceError(f"ONNX Runtime refuses a segment of the model: {error}") from error
            self._sessions[model.signature] = session
        binding = session.io_binding()
        for port in model.inputs:
            a = addresses[port.name]
            binding.bind_input(port.name, "cpu", 0, a.element_type, a.shape, self._base + a.offset)
        for port in model.outputs:
            a = addresses[port.name]
            binding.bind_output(port.name, "cpu", 0, a.element_type, a.shape, self._base + a.offset)
        return _Bound(session._sess.run_with_iobinding, binding._iobinding)

    def launch(self, segment: Segment) -> None:
        """Run the segment now."""
        if not isinstance(segment, _Bound):
            raise InternalError("a segment of another device was launched on the CPU")
        try:
            segment.run(segment.binding, self._run_options)
        except Exception as error:  # ONNX Runtime raises types of its own that share no base
            raise DeviceError(f"ONNX Runtime failed inside a segment: {error}") from error

    def copy(self, engine: Engine, slab_offset: int, host_offset: int, size: int) -> None:
        """Queue the transfer on the direction's thread."""
        view = memoryview(self._map)[slab_offset : slab_offset + size]
        move = self._tier.store if engine is Engine.OUT else self._tier.fetch
        self._workers[engine].queue.put(lambda: move(host_offset, view))

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
        """Wait for both copy threads and raise what they met."""
        for engine in (Engine.OUT, Engine.IN):
            event = self.record(engine)
            self.wait(Engine.COMPUTE, event)

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
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if offset + size > self._size:
            raise InternalError(f"{size} bytes at {offset} lie outside the slab of {self._size}")
        return self._slab[offset : offset + size].view(dtype).reshape(shape)

    def write_host(self, offset: int, value: np.ndarray) -> None:
        """Store `value` on the host tier."""
        self._tier.store(offset, np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)

    def read_host(self, offset: int, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        """Fetch an array from the host tier."""
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        data = np.empty(size, np.uint8)
        self._tier.fetch(offset, data.data)
        return data.view(dtype).reshape(shape)

    def close(self) -> None:
        """Stop the threads, drop sessions, slab and host slab."""
        if self._closed:
            return
        self._closed = True
        for worker in self._workers.values():
            worker.queue.put(None)
        for worker in self._workers.values():
            worker.join()
        self._sessions.clear()
        if self._stats:
            self._stats.cleanup()
        self._tier.close()
        del self._slab
        with contextlib.suppress(BufferError):
            self._map.close()
