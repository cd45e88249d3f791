"""Scratch of operators at planned addresses: the allocator that ONNX Runtime's kernels ask while a segment runs.

The plan gives each segment a region of the slab, or all of them one region beside it. While the segment runs, allocations
are handed out from there one after the other, and the region is empty again whenever nothing of it is in use: between any
two operators. So an operator may use as many bytes as it allocates in all, which is what the profiler measures.
"""

import ctypes
import threading
from dataclasses import dataclass, field
from functools import cache
from typing import Protocol, TypeVar, runtime_checkable

from planc.cores import cpu_threads
from planc.errors import DeviceError, InternalError
from planc.runtime.device import LoadedSegment
from planc.runtime.ort.c_api import Allocator, environment
from planc.runtime.ort.sessions import prepare_threads, reserve_arena
from planc.units import align_up

HEAP_ALIGNMENT = 64

S = TypeVar("S")


class Heap(Protocol):
    """Memory outside of any region."""

    def allocate(self, size: int) -> int | None:
        """Address of at least `size` bytes, None when there are none."""
        ...

    def free(self, address: int) -> None:
        """Give back what `allocate` gave."""
        ...


class HostHeap:
    """The C library's."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None)
        self._libc.aligned_alloc.restype = ctypes.c_void_p
        self._libc.aligned_alloc.argtypes = [ctypes.c_size_t, ctypes.c_size_t]
        self._libc.free.argtypes = [ctypes.c_void_p]

    def allocate(self, size: int) -> int | None:
        """Address of at least `size` bytes, None when there are none."""
        address: int | None = self._libc.aligned_alloc(
            HEAP_ALIGNMENT, max(HEAP_ALIGNMENT, align_up(size, HEAP_ALIGNMENT))
        )
        return address

    def free(self, address: int) -> None:
        """Give back what `allocate` gave."""
        self._libc.free(address)


@runtime_checkable
class PlacesScratch(Protocol):
    """A device that puts the scratch of a segment at planned bytes of its slab."""

    def with_scratch(self, segment: LoadedSegment, offset: int, size: int) -> LoadedSegment:
        """The loaded segment, whose operators take scratch from bytes [`offset`, `offset + size`) of the slab."""
        ...


@dataclass(slots=True)
class ScratchRegion:
    """Bytes [`base`, `base + size`) of memory, and how they are used: `used` from the start, by `live` allocations.

    `peak` is the most that was used at once; `refused` is set when an operator asked for more than there is.
    """

    base: int
    size: int
    alignment: int = HEAP_ALIGNMENT
    used: int = 0
    live: int = 0
    peak: int = 0
    refused: bool = False

    def take(self, size: int) -> int | None:
        """Address of `size` bytes, None when they do not fit."""
        used = self.used + align_up(size, self.alignment)
        self.peak = max(self.peak, used)
        if used > self.size:
            self.refused = True
            return None
        address, self.used = self.base + self.used, used
        self.live += 1
        return address

    def give_back(self) -> None:
        """One allocation ends."""
        self.live -= 1
        if not self.live:
            self.used = 0


def own_segment(segment: LoadedSegment, kind: type[S], device: str) -> S:
    """`segment`, which `device` loaded as one of its `kind`. Raises InternalError for another device's."""
    if not isinstance(segment, kind):
        raise InternalError(f"{device} was given a segment of another device")
    return segment


@dataclass(frozen=True, slots=True)
class ScratchPlaces:
    """Where a device may place scratch: in its slab, `size` bytes at `base`, with an `allocator` that hands it out."""

    allocator: object | None
    base: int
    size: int
    alignment: int = HEAP_ALIGNMENT

    def region(self, offset: int, size: int) -> ScratchRegion:
        """Bytes [`offset`, `offset + size`) of the slab. Raises DeviceError where ONNX Runtime keeps its own allocator."""
        if self.allocator is None:
            raise DeviceError(
                "the plan places scratch in the slab, which this build of ONNX Runtime does not allow, or an arena was "
                "registered before; compile the plan on this machine, in a process that registers no allocator"
            )
        if offset + size > self.size:
            raise InternalError("a segment's scratch lies outside the slab")
        return ScratchRegion(self.base + offset, size, self.alignment)


@dataclass
class ScratchAllocator:
    """A shared allocator of the process, for one kind of memory. Each thread runs segments of its own; outside of one,
    memory is the heap's. `threads` is how many operators run on, where they take more scratch with more of them."""

    heap: Heap
    threads: int = 0
    _here: threading.local = field(default_factory=threading.local)
    _heap: set[int] = field(default_factory=set)
    _registered: Allocator | None = None

    def register(self, memory: str, index: int = 0) -> bool:
        """Whether ONNX Runtime took the allocator for `memory` (`Cpu`, or `Cuda` of card `index`): it has none to give
        away, or has another already."""
        prepare_threads()  # ONNX Runtime's environment is made with them, and the next line makes it
        found = environment()
        if found is None:
            return False
        try:
            self._registered = found.register(self._allocate, self._free, self._from_heap, memory, index)
        except RuntimeError:
            return False
        return True

    def enter(self, region: ScratchRegion) -> None:
        """Serve this thread's allocations from `region` until `leave`; a run that failed may have left some there."""
        region.used = region.live = 0
        self._here.region = region

    def leave(self) -> None:
        """Back to the heap. Raises DeviceError when an operator asked for more than the region has."""
        region: ScratchRegion = self._here.region
        self._here.region = None
        if region.refused:
            region.refused = False
            peak, region.peak = region.peak, 0
            more = f", with the {self.threads} threads of this process: more take more" if self.threads else ""
            raise DeviceError(
                f"operators of a segment asked for {peak} bytes of scratch, the plan has {region.size}: profile "
                f"again on this machine{more} (`planc profile`) and compile with those costs"
            )

    def _allocate(self, _: object, size: int) -> int | None:
        region: ScratchRegion | None = getattr(self._here, "region", None)
        address = region.take(size) if region is not None and size else None
        return address if address is not None or not size else self._from_heap(_, size)

    def _from_heap(self, _: object, size: int) -> int | None:
        address = self.heap.allocate(size)
        if address is not None:
            self._heap.add(address)
        return address

    def _free(self, _: object, address: int | None) -> None:
        if address in self._heap:
            self._heap.discard(address)
            self.heap.free(address)
        elif address is not None and (region := getattr(self._here, "region", None)) is not None:
            region.give_back()


@cache
def scratch_allocator() -> ScratchAllocator | None:
    """The process's allocator of host memory; None where ONNX Runtime does not take one."""
    allocator = ScratchAllocator(HostHeap(), cpu_threads())
    return allocator if allocator.register("Cpu") else None


def reserve_scratch(size: int) -> None:
    """Bound the scratch of all planned CPU sessions of this process to `size` bytes, where one arena serves them all.

    Does nothing where scratch is placed by plans, which is the rule. Raises DeviceError when an earlier arena is smaller.
    """
    if scratch_allocator() is None:
        reserve_arena(size)
