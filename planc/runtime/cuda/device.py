"""A CUDA card as a device: one slab, one pinned host slab, one compute stream for all sessions, one stream for each
copy direction, events for exactly the waits that a plan lists.

Nothing here blocks the host but `synchronize`, the four reads and writes, and loading. A device belongs to the thread
that made it: ONNX Runtime keeps library handles for each thread.
"""

import contextlib
import ctypes
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import onnxruntime as ort

from planc.enums import ExchangeKind
from planc.errors import DeviceError, FeedError, InternalError, RankError
from planc.importer.submodel import SubModel
from planc.runtime.cuda.driver import Context, allocate, allocate_pinned, call, new_event, new_stream
from planc.runtime.cuda.graph import Replay, record
from planc.runtime.cuda.handle_sharing import is_sharing, shared_handle
from planc.runtime.cuda.provider import (
    cuda_session,
    form_options,
    library_versions,
    load_libraries,
    reserve_scratch,
    run_options,
)
from planc.runtime.cuda.scratch import scratch_allocator
from planc.runtime.device import Engine, Event, LoadedSegment, TensorAddress
from planc.runtime.dlpack import DeviceArray, Exporter, is_on_card, take
from planc.runtime.ort.binding import bound_to
from planc.runtime.ort.sessions import Run, faithful_options, read_scratch, record_scratch, share_scratch
from planc.runtime.ranks.group import RankGroup
from planc.runtime.scratch import ScratchPlaces, ScratchRegion, own_segment
from planc.runtime.tiers import require_pinned
from planc.units import ALIGNMENT

if TYPE_CHECKING:
    from planc.runtime.cuda.nccl import NcclSums

_UNSHARED = (
    "each session of this step takes 8-10 MiB of device memory beside the plan for a cuDNN handle of its own: where this "
    "program opens CUDA sessions itself, it must load the plan first (x86-64 Linux; elsewhere handles are not shared)"
)


@dataclass(slots=True)
class _Bound:
    """A session and its run on bound memory. Empty once the device is closed. `ran` tells
    whether anything was ever queued."""

    session: ort.InferenceSession | None
    run: Run | None
    ran: bool = False
    scratch: ScratchRegion | None = None


class CudaDevice:
    """ONNX Runtime's CUDA provider over one device slab of `slab_bytes` and one pinned slab of `host_bytes`.

    Operators take scratch from `scratch_bytes` beside the slab; `peak_scratch_bytes` tells what was used. Raises
    DeviceError when memory is refused or the provider does not load, UsageError for a host tier other than `ram`.
    """

    kind = "cuda"
    bound_to_thread = True
    counts_seeds_up = False

    def __init__(
        self,
        slab_bytes: int,
        host_bytes: int,
        scratch_bytes: int,
        host_tier: str | None = "ram",
        measure: bool = False,
        index: int = 0,
    ) -> None:
        require_pinned(host_tier)
        load_libraries()
        self._context = Context(index)
        self._closed = False
        self._size, self._host_size = slab_bytes, host_bytes
        self._slab = self._host = 0
        self._allocator = scratch_allocator(index)
        self._scratch = ScratchRegion(0, 0, ALIGNMENT)
        self._inside: list[ScratchRegion] = []
        self._streams: dict[Engine, Any] = {}
        self._events: list[Any] = []
        self._used_events = 0
        self._sessions: dict[tuple[object, ...], ort.InferenceSession] = {}
        self._bindings: list[_Bound] = []
        self._replays: list[Replay] = []
        self._sums: NcclSums | None = None
        in_arena = measure and self._allocator is None
        self._stats = tempfile.TemporaryDirectory(prefix="planc-") if in_arena else None
        try:
            self._slab = allocate(slab_bytes, "the plan's slab")
            self._host = allocate_pinned(host_bytes, "the plan's host slab") if host_bytes else 0
            for engine in Engine:
                self._streams[engine] = new_stream()
            if self._allocator is None:
                reserve_scratch(scratch_bytes, index)
            elif scratch_bytes:
                self._scratch = ScratchRegion(allocate(scratch_bytes, "the plan's scratch"), scratch_bytes, ALIGNMENT)
        except BaseException:
            self.close()
            raise
        self._queue_only = run_options()
        self.capture_refused = ""
        self._draws = ""

    @property
    def index(self) -> int:
        """Which card."""
        return self._context.index

    @property
    def peak_scratch_bytes(self) -> int:
        """Most scratch that was in use at once since loading; with an arena from ONNX Runtime's own statistics, which
        leave out some of it, and 0 unless measured."""
        files = Path(self._stats.name).glob("*.csv") if self._stats else ()
        return max(
            (read_scratch(file) for file in files),
            default=max(region.peak for region in (self._scratch, *self._inside)),
        )

    @property
    def peak_slab_scratch_bytes(self) -> int:
        """Most scratch inside the slab that one segment took since loading."""
        return max((region.peak for region in self._inside), default=0)

    @property
    def session_count(self) -> int:
        """Number of distinct sessions loaded so far."""
        return len(self._sessions)

    @property
    def used_bytes(self) -> int:
        """Device memory that the driver counts as taken on the whole card, by anybody."""
        free, total = call("cuMemGetInfo")
        return int(total - free)

    def load(self, model: SubModel, addresses: Mapping[str, TensorAddress], form: str = "") -> LoadedSegment:
        """Create or reuse the session of `model` in a form of `FORMS` and bind its ports."""
        session = self._sessions.get((form, *model.session_key)) or self._new_session(model, form)
        self._draws = self._draws or model.draws
        self._bindings.append(_Bound(session, bound_to(session, model, addresses, self._slab, "cuda", self.index)))
        return self._bindings[-1]

    def _new_session(self, model: SubModel, form: str) -> ort.InferenceSession:
        settings = form_options(form)
        options = faithful_options()
        share_scratch(options)
        if self._stats:
            record_scratch(options, Path(self._stats.name) / f"{len(self._sessions)}.csv")
        stream = int(self._streams[Engine.COMPUTE])
        with shared_handle(stream):
            session = cuda_session(model.model_bytes, self.index, stream, options, settings, form)
        self._sessions[form, *model.session_key] = session
        if len(self._sessions) == 2 and not is_sharing():
            warnings.warn(_UNSHARED, RuntimeWarning, stacklevel=2)
        return session

    def with_scratch(self, segment: LoadedSegment, offset: int, size: int) -> LoadedSegment:
        """The segment with its scratch in the slab. Raises DeviceError where ONNX Runtime keeps its own allocator."""
        bound = own_segment(segment, _Bound, "the card")
        bound.scratch = ScratchPlaces(self._allocator, self._slab, self._size, ALIGNMENT).region(offset, size)
        self._inside.append(bound.scratch)
        return bound

    def require_engines(self, versions: Mapping[str, str]) -> None:
        """Raise DeviceError unless this machine's cuDNN is the one whose engines a plan pins."""
        pinned, here = versions.get("cudnn"), library_versions()["cudnn"]
        if pinned != here:
            raise DeviceError(
                f"the plan pins engines of cuDNN {pinned}, this machine has {here}: measure and compile again here, with "
                "planc profile and planc compile"
            )

    def unload(self, segment: LoadedSegment) -> None:
        """Drop the segment's session."""
        bound = own_segment(segment, _Bound, "the card")
        self.synchronize()
        if bound.ran:  # as in `_settle`
            self._run(bound, ort.RunOptions())
        self._bindings.remove(bound)
        self._sessions = {key: own for key, own in self._sessions.items() if own is not bound.session}
        bound.session = bound.run = None

    def launch(self, segment: LoadedSegment) -> None:
        """Queue the segment's kernels."""
        self._run(own_segment(segment, _Bound, "the card"), self._queue_only)

    def _run(self, segment: _Bound, options: ort.RunOptions) -> None:
        if segment.run is None:
            raise DeviceError("the step is closed: load the plan again")
        segment.ran = True
        if self._allocator is not None:
            self._allocator.enter(segment.scratch or self._scratch)
        try:
            segment.run(options)
        except Exception as error:  # ONNX Runtime raises types of its own that share no base
            raise DeviceError(f"ONNX Runtime failed inside a segment: {error}") from error
        finally:
            if self._allocator is not None:
                self._allocator.leave()

    def copy(self, engine: Engine, slab_offset: int, host_offset: int, size: int) -> None:
        """Queue the transfer on the direction's stream."""
        slab, host, stream = self._slab + slab_offset, self._host + host_offset, self._streams[engine]
        if engine is Engine.OUT:
            call("cuMemcpyDtoHAsync", host, slab, size, stream)
        else:
            call("cuMemcpyHtoDAsync", slab, host, size, stream)

    def join(self, group: RankGroup) -> None:
        """Meet the other ranks' cards."""
        from planc.runtime.cuda.nccl import NcclSums  # a step of one rank needs no NCCL

        self._sums = NcclSums(group, self._context, self._streams[Engine.EXCHANGE])

    def exchange(self, kind: ExchangeKind, tensors: Sequence[TensorAddress], roots: Sequence[int]) -> None:
        """Queue the exchange on the stream for such."""
        if self._sums is None:
            raise DeviceError("the device has joined no other ranks")
        self._sums.queue(self._slab, kind, tensors, roots)

    def record(self, engine: Engine) -> Event:
        """Record one of the device's events; it is free again after the next `synchronize`."""
        if self._used_events == len(self._events):
            self._events.append(new_event())
        event: Event = self._events[self._used_events]
        self._used_events += 1
        call("cuEventRecord", event, self._streams[engine])
        return event

    def wait(self, engine: Engine, event: Event) -> None:
        """Make a stream wait for an event that was recorded since the last `synchronize`."""
        call("cuStreamWaitEvent", self._streams[engine], event, 0)

    def synchronize(self) -> None:
        """Wait for all streams and raise what the driver met."""
        if self._sums is None:
            self._wait()
        else:
            self._sums.wait(self._wait)
        self._used_events = 0

    def _wait(self) -> None:
        for stream in self._streams.values():
            call("cuStreamSynchronize", stream)

    def recover(self) -> None:
        """Wait for what is queued; a card in a state of error says so and stays unusable."""
        self.synchronize()

    def capture(self, queue: Callable[[], None]) -> Callable[[], None]:
        """Record a step as a CUDA graph and return its replay; where the driver refuses, or something draws random
        numbers, `queue` itself. `capture_refused` then says why.

        Every segment must have run before, so that libraries are set up. ONNX Runtime's kernels take a generator's seed
        and position from the host as they are launched, so that every replay would draw the same.
        """
        if self._draws:
            self.capture_refused = f"{self._draws} would draw the same random numbers in every replay"
            return queue
        compute, *copies = self._streams.values()
        try:
            replay = record(queue, compute, copies)
        except DeviceError as error:
            self.capture_refused = str(error)
            self.synchronize()
            return queue
        self._used_events = 0
        self._replays.append(replay)
        return replay

    def write_slab(self, offset: int, value: np.ndarray | DeviceArray) -> None:
        """Copy an array of the host or of the card to the slab, in the order of the compute stream."""
        stream = self._streams[Engine.COMPUTE]
        self._check(offset, value.nbytes, self._size, "slab")
        if isinstance(value, DeviceArray):
            call("cuMemcpyDtoDAsync", self._slab + offset, value.address, value.nbytes, stream)
        else:
            array = np.ascontiguousarray(value)
            call("cuMemcpyHtoDAsync", self._slab + offset, array.ctypes.data, array.nbytes, stream)
        call("cuStreamSynchronize", stream)

    def accept(self, name: str, value: object) -> DeviceArray | None:
        """The array behind `value` where it lives on this card; None for anything else."""
        if not is_on_card(value):
            return None
        array = take(name, cast(Exporter, value), int(self._streams[Engine.COMPUTE]))
        if array.index != self.index:
            raise FeedError(f"{name!r} is on card {array.index}, the step on card {self.index}: move it there")
        return array

    def read(self, array: DeviceArray) -> np.ndarray:
        """A copy of an accepted array on the host."""
        value, stream = np.empty(array.shape, array.dtype), self._streams[Engine.COMPUTE]
        call("cuMemcpyDtoHAsync", value.ctypes.data, array.address, array.nbytes, stream)
        call("cuStreamSynchronize", stream)
        return value

    def view(self, offset: int, dtype: np.dtype, shape: tuple[int, ...]) -> DeviceArray:
        """The array at a slab offset, shared: it keeps the device's memory from nobody and dies with it."""
        fetch = partial(self.read_slab, offset, dtype, shape)
        return DeviceArray(self._slab + offset, shape, dtype, self.index, self, fetch=fetch)

    def read_slab(self, offset: int, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        """A copy of an array in the slab."""
        array = np.empty(shape, dtype)
        self._check(offset, array.nbytes, self._size, "slab")
        call("cuMemcpyDtoHAsync", array.ctypes.data, self._slab + offset, array.nbytes, self._streams[Engine.COMPUTE])
        call("cuStreamSynchronize", self._streams[Engine.COMPUTE])
        return array

    def write_host(self, offset: int, value: np.ndarray | DeviceArray) -> None:
        """Store an array of the host or of the card in the pinned slab."""
        target = self._host_array(offset, value.dtype, value.shape)
        if isinstance(value, DeviceArray):
            stream = self._streams[Engine.COMPUTE]
            call("cuMemcpyDtoHAsync", target.ctypes.data, value.address, value.nbytes, stream)
            call("cuStreamSynchronize", stream)
        else:
            target[...] = value

    def read_host(self, offset: int, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        """A copy of an array in the pinned slab."""
        return self._host_array(offset, dtype, shape).copy()

    def _host_array(self, offset: int, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        self._check(offset, size, self._host_size, "host slab")
        return pinned_array(self._host + offset, size).view(dtype).reshape(shape)

    @staticmethod
    def _check(offset: int, size: int, limit: int, where: str) -> None:
        if offset + size > limit:
            raise InternalError(f"{size} bytes at {offset} lie outside the {where} of {limit}")

    def close(self) -> None:
        """Free everything, whatever state the card is in; raises nothing that the driver says of it."""
        if self._closed:
            return
        self._closed = True
        for step in (self._context.enter, self._settle, *(r.close for r in self._replays), self._drop_sessions):
            _quietly(step)
        if self._sums is not None:
            self._sums.close()
        for event in self._events:
            _quietly(call, "cuEventDestroy", event)
        for stream in self._streams.values():
            _quietly(call, "cuStreamDestroy", stream)
        if self._host:
            _quietly(call, "cuMemFreeHost", self._host)
        for address in filter(None, (self._slab, self._scratch.base)):
            _quietly(call, "cuMemFree", address)
        _quietly(self._context.close)
        if self._stats:
            self._stats.cleanup()

    def _settle(self) -> None:
        """Run every session that ran once more with the synchronising options: the host callbacks that free its pinned
        metadata must be past before the session goes, or the process dies in them."""
        self.synchronize()
        last = {id(bound.session): bound for bound in self._bindings if bound.ran}
        for bound in last.values():
            self._run(bound, ort.RunOptions())

    def _drop_sessions(self) -> None:
        for bound in self._bindings:  # whoever still holds a segment must not keep its session on the card
            bound.session = bound.run = None
        self._bindings.clear()
        self._sessions.clear()


def pinned_array(address: int, size: int) -> np.ndarray:
    """The `size` bytes of host memory at `address` as an array that does not own them."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))


def _quietly(step: Callable[..., object], *arguments: object) -> None:
    """Closing goes on: what the driver says of a broken card was raised where it broke."""
    with contextlib.suppress(DeviceError, RankError):
        step(*arguments)
