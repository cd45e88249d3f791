"""Reads and writes of one file through Linux's io_uring: requests are queued by one thread and done by the kernel.

Only what a measurement needs (`io_uring(7)`, x86-64): one ring, so many requests under way, no registered buffers.
"""

import ctypes
import errno
import mmap
import os
from collections.abc import Iterator

_SETUP, _ENTER = 425, 426
_READ, _WRITE = 22, 23
_GET_EVENTS = 1
_SUBMISSIONS, _COMPLETIONS, _ENTRIES = 0, 0x8000000, 0x10000000
"""Offsets at which the kernel offers the two rings and the array of requests."""


def _offsets(*names: str) -> list[tuple[str, type]]:
    """Where the parts of a ring are."""
    common = ("head", "tail", "mask", "entries")
    return [*((name, ctypes.c_uint32) for name in (*common, *names)), ("reserved", ctypes.c_uint64)]


class _Submissions(ctypes.Structure):
    """`io_sqring_offsets`."""

    _fields_ = _offsets("flags", "dropped", "array", "rest")


class _Completions(ctypes.Structure):
    """`io_cqring_offsets`."""

    _fields_ = _offsets("overflow", "entries_at", "flags", "rest")


class _Parameters(ctypes.Structure):
    """`io_uring_params`."""

    _fields_ = [
        ("entries", ctypes.c_uint32), ("completions", ctypes.c_uint32), ("flags", ctypes.c_uint32 * 3),
        ("features", ctypes.c_uint32), ("rest", ctypes.c_uint32 * 4), ("sq", _Submissions), ("cq", _Completions),
    ]  # fmt: skip


class _Request(ctypes.Structure):
    """`io_uring_sqe`."""

    _fields_ = [
        ("opcode", ctypes.c_uint8), ("flags", ctypes.c_uint8), ("priority", ctypes.c_uint16), ("file", ctypes.c_int32),
        ("offset", ctypes.c_uint64), ("address", ctypes.c_uint64), ("length", ctypes.c_uint32), ("more", ctypes.c_uint32),
        ("data", ctypes.c_uint64), ("rest", ctypes.c_uint64 * 3),
    ]  # fmt: skip


class _Completion(ctypes.Structure):
    """`io_uring_cqe`."""

    _fields_ = [("data", ctypes.c_uint64), ("result", ctypes.c_int32), ("flags", ctypes.c_uint32)]


class Ring:
    """A ring of `depth` requests. Raises OSError where the kernel has none, or a request fails."""

    def __init__(self, depth: int) -> None:
        self._library = ctypes.CDLL(None, use_errno=True)
        self.depth, found = depth, _Parameters()
        self._file = self._call(_SETUP, depth, ctypes.byref(found))
        self._maps = [
            mmap.mmap(self._file, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE, offset=at)
            for size, at in (
                (found.sq.array + 4 * found.entries, _SUBMISSIONS),
                (found.cq.entries_at + ctypes.sizeof(_Completion) * found.completions, _COMPLETIONS),
                (ctypes.sizeof(_Request) * found.entries, _ENTRIES),
            )
        ]
        rings, done, entries = self._maps
        self._mask, self._done_mask = found.entries - 1, found.completions - 1
        self._tail = ctypes.c_uint32.from_buffer(rings, found.sq.tail)
        self._array = (ctypes.c_uint32 * found.entries).from_buffer(rings, found.sq.array)
        self._head = ctypes.c_uint32.from_buffer(done, found.cq.head)
        self._done_tail = ctypes.c_uint32.from_buffer(done, found.cq.tail)
        self._done = (_Completion * found.completions).from_buffer(done, found.cq.entries_at)
        self._requests = (_Request * found.entries).from_buffer(entries)

    def _call(self, number: int, *arguments: object) -> int:
        result = int(self._library.syscall(number, *arguments))
        if result < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return result

    def move(self, file: int, write: bool, address: int, offset: int, size: int, piece: int) -> None:
        """Write `size` bytes at `address` to the file from `offset` on, or read them, in requests of `piece` bytes."""
        waiting = range(0, size, piece)
        under_way, at = 0, 0
        while at < len(waiting) or under_way:
            queued = 0
            while at < len(waiting) and under_way < self.depth:
                start = waiting[at]
                self._queue(file, write, address + start, offset + start, min(piece, size - start))
                at, under_way, queued = at + 1, under_way + 1, queued + 1
            self._call(_ENTER, self._file, queued, 1, _GET_EVENTS, None, 0)
            for result in self._finished():
                under_way -= 1
                if result < 0:
                    raise OSError(-result, os.strerror(-result))
                if result not in (piece, size % piece):
                    raise OSError(errno.EIO, f"a request moved {result} bytes")

    def _queue(self, file: int, write: bool, address: int, offset: int, length: int) -> None:
        slot = self._tail.value & self._mask
        self._requests[slot] = _Request(
            opcode=_WRITE if write else _READ, file=file, offset=offset, address=address, length=length
        )
        self._array[slot] = slot
        self._tail.value += 1

    def _finished(self) -> Iterator[int]:
        while self._head.value != self._done_tail.value:
            yield self._done[self._head.value & self._done_mask].result
            self._head.value += 1

    def close(self) -> None:
        """Give the ring back."""
        del self._tail, self._array, self._head, self._done_tail, self._done, self._requests
        for each in self._maps:
            each.close()
        os.close(self._file)
