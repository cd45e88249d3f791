"""Host tiers: where swapped bytes go when they leave the CPU's slab: memory, or a file (`planc.runtime.file_tier`)."""

import contextlib
import mmap
from pathlib import Path
from typing import Protocol

import numpy as np

from planc.errors import DeviceError, UsageError
from planc.runtime.file_tier import FileTier
from planc.units import format_bytes


def populated(size: int) -> mmap.mmap:
    """Anonymous memory of `size` bytes, all pages there from the start, so that no step pays for page faults."""
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)


def _move(target: memoryview, source: memoryview) -> None:
    """Copy all of `source` to the start of `target`; numpy's copy releases the interpreter lock."""
    np.copyto(np.frombuffer(target, np.uint8)[: len(source)], np.frombuffer(source, np.uint8))


class HostTier(Protocol):
    """Bytes outside the slab. `store` and `fetch` move whole ranges and may run on different threads at once."""

    def store(self, offset: int, source: memoryview) -> None: ...

    def fetch(self, offset: int, target: memoryview) -> None: ...

    def close(self) -> None: ...


class RamTier:
    """Anonymous memory."""

    def __init__(self, size: int) -> None:
        try:
            self._map = populated(max(size, mmap.PAGESIZE))
        except (OSError, ValueError) as error:
            raise DeviceError(
                f"the host tier needs {format_bytes(size)} of memory, which the system refuses"
            ) from error
        self._bytes = np.frombuffer(self._map, np.uint8)

    def store(self, offset: int, source: memoryview) -> None:
        """Copy `source` in."""
        _move(self._bytes[offset : offset + len(source)].data, source)

    def fetch(self, offset: int, target: memoryview) -> None:
        """Copy out to `target`."""
        _move(target, self._bytes[offset : offset + len(target)].data)

    def close(self) -> None:
        """Give the memory back."""
        del self._bytes
        with contextlib.suppress(BufferError):
            self._map.close()


def open_tier(specification: str, size: int) -> HostTier:
    """The tier meant by `ram` or `file:PATH`, of `size` bytes. Raises UsageError or DeviceError."""
    if specification == "ram":
        return RamTier(size)
    if specification.startswith("file:") and len(specification) > len("file:"):
        return FileTier(Path(specification.removeprefix("file:")), size)
    raise UsageError(f"host tier {specification!r}: expected ram or file:PATH")
