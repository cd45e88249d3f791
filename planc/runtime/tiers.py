"""Host tiers: where swapped bytes go when they leave the CPU's slab: memory, or a file."""

import contextlib
import mmap
import os
from pathlib import Path
from typing import Protocol

import numpy as np

from planc.errors import DeviceError, UsageError
from planc.units import format_bytes

_BOUNCE_BYTES = 4 << 20
_BLOCK = 4096


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
            self._map = populated(max(size, _BLOCK))
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


class FileTier:
    """A file, removed on close. It bypasses the page cache where the file system allows (O_DIRECT), so that swapped
    bytes really leave memory; transfers pass through an aligned buffer of their direction."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        flags = os.O_RDWR | os.O_CREAT
        try:
            try:
                self._file = os.open(path, flags | os.O_DIRECT, 0o600)
            except OSError:
                self._file = os.open(path, flags, 0o600)
            os.posix_fallocate(self._file, 0, max(size, _BLOCK))
        except OSError as error:
            raise DeviceError(
                f"{path}: the host tier needs a file of {format_bytes(size)} ({error.strerror}); "
                "choose another folder with --host-tier file:PATH, or ram"
            ) from error
        self._bounce = {"store": mmap.mmap(-1, _BOUNCE_BYTES), "fetch": mmap.mmap(-1, _BOUNCE_BYTES)}

    def store(self, offset: int, source: memoryview) -> None:
        """Write `source`, whole blocks at a time: host slots are padded to blocks."""
        bounce = memoryview(self._bounce["store"])
        for at in range(0, len(source), _BOUNCE_BYTES):
            part = source[at : at + _BOUNCE_BYTES]
            _move(bounce, part)
            whole = bounce[: -(-len(part) // _BLOCK) * _BLOCK]
            self._all(os.pwrite(self._file, whole, offset + at), len(whole), "written to")

    def fetch(self, offset: int, target: memoryview) -> None:
        """Read into `target`."""
        bounce = memoryview(self._bounce["fetch"])
        for at in range(0, len(target), _BOUNCE_BYTES):
            part = target[at : at + _BOUNCE_BYTES]
            whole = bounce[: -(-len(part) // _BLOCK) * _BLOCK]
            self._all(os.preadv(self._file, [whole], offset + at), len(whole), "read from")
            _move(part, bounce[: len(part)])

    def _all(self, moved: int, wanted: int, verb: str) -> None:
        if moved != wanted:
            raise DeviceError(f"{self.path}: {moved} of {wanted} bytes were {verb} the host tier; is the disk full?")

    def close(self) -> None:
        """Close and remove the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            self.path.unlink(missing_ok=True)


def open_tier(specification: str, size: int) -> HostTier:
    """The tier meant by `ram` or `file:PATH`, of `size` bytes. Raises UsageError or DeviceError."""
    if specification == "ram":
        return RamTier(size)
    if specification.startswith("file:") and len(specification) > len("file:"):
        return FileTier(Path(specification.removeprefix("file:")), size)
    raise UsageError(f"host tier {specification!r}: expected ram or file:PATH")
