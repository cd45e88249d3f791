"""Host tiers: where swapped bytes go when they leave the CPU's slab: memory, or a file (`planc.runtime.file_tier`)."""

import contextlib
import mmap
import os
import tempfile
from pathlib import Path
from typing import Protocol

import numpy as np

from planc.enums import HostTierKind
from planc.errors import DeviceError, UsageError
from planc.runtime.file_tier import FileTier, lies_in_memory
from planc.units import format_bytes

TIER_VARIABLE, FOLDER_VARIABLE = "PLANC_HOST_TIER", "PLANC_SWAP_FOLDER"
"""Environment variables: the tier of CPU plans that nothing else names, and where its files go."""


def populated(size: int) -> mmap.mmap:
    """Anonymous memory of `size` bytes, all pages there from the start, so that no step pays for page faults."""
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)


def _move(target: memoryview, source: memoryview) -> None:
    """Copy all of `source` to the start of `target`; numpy's copy releases the interpreter lock."""
    np.copyto(np.frombuffer(target, np.uint8)[: len(source)], np.frombuffer(source, np.uint8))


class HostTier(Protocol):
    """Bytes outside the slab. `store` and `fetch` move whole ranges and may run on different threads at once.

    `memory_bytes` of them lie in memory all the same.
    """

    memory_bytes: int

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
        self.memory_bytes = size

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


def chosen_tier(specification: str | None) -> str:
    """What the user asked for, else what the environment names, else a file: memory is what a plan saves."""
    return specification or os.environ.get(TIER_VARIABLE) or "file"


def tier_kind(specification: str) -> HostTierKind:
    """`ram` or `file`. Raises UsageError for anything that `open_tier` does not take."""
    kind, colon, place = specification.partition(":")
    if kind == "file" and (place or not colon):
        return HostTierKind.FILE
    if specification == "ram":
        return HostTierKind.RAM
    raise UsageError(f"host tier {specification!r}: expected ram, file or file:PATH")


def open_tier(specification: str, size: int) -> HostTier:
    """The tier meant by `ram`, `file` (in the folder of `swap_folder`) or `file:PATH`, of `size` bytes.

    Raises UsageError or DeviceError. Where nothing is swapped, no file is made.
    """
    kind = tier_kind(specification)
    if kind is HostTierKind.RAM or not size:
        return RamTier(size)
    place = specification.partition(":")[2]
    return FileTier(Path(place) if place else swap_folder(), size)


def require_pinned(host_tier: str | None) -> None:
    """Raise UsageError for a host tier that is not page-locked memory."""
    if host_tier not in (None, HostTierKind.RAM):
        raise UsageError(f"host tier {host_tier!r}: swapped bytes of a CUDA plan go to page-locked memory (ram)")


def swap_folder() -> Path:
    """Where files go that no path was given for: the first folder that is on a disk and can be written to."""
    given = [os.environ[name] for name in (FOLDER_VARIABLE,) if os.environ.get(name)]
    folders = [Path(name) for name in (*given, "/var/tmp", tempfile.gettempdir(), ".")]
    usable = [folder for folder in folders if folder.is_dir() and os.access(folder, os.W_OK)]
    return next((folder for folder in usable if not lies_in_memory(folder)), usable[0] if usable else folders[0])
