"""A file as host tier: swapped bytes leave memory, past the page cache where the file system allows it (O_DIRECT).

The file has no name from the start, or loses it before a byte is written: nothing that exists is opened, two runs that
are given one path have two files, and whatever ends the process, SIGKILL included, the space is free again.
"""

import contextlib
import errno
import fcntl
import mmap
import os
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np

from planc.errors import DeviceError
from planc.units import HOST_ALIGNMENT, align_up, format_bytes

BLOCK = HOST_ALIGNMENT
"""Transfers begin at multiples of this many bytes of the file. Slots are padded to it, so the rest of a transfer's last
block is nobody's."""

_PIECE_BYTES, _IN_FLIGHT = 1 << 20, 4
"""Requests are this large at most, and so many are under way at once, both directions together. On an NVMe disk four
of 1 MiB moved 1.5 to 2 times what one did (benchmarks/cpu/file_tier.py)."""

BUFFER_BYTES = _PIECE_BYTES * _IN_FLIGHT
"""Memory for what lies at no multiple of the disk's blocks, on its way."""

_MEMORY_FILE_SYSTEMS = {"tmpfs", "ramfs", "devtmpfs", "hugetlbfs"}


class FileTier:
    """`size` bytes in an unnamed file of the folder `place`, or of the folder in which `place` would be a new file.

    `memory_bytes` is `size` where its bytes stay in memory after all, in the page cache or on a file system that is
    memory, else what transfers need on their way. Raises DeviceError where `place` is an existing file, or there is no
    room for the file or no right to make one.
    """

    def __init__(self, place: Path, size: int) -> None:
        self.path = place
        size = max(align_up(size, BLOCK), BLOCK)
        try:
            if place.exists() and not place.is_dir():
                raise FileExistsError(errno.EEXIST, "it exists, and would be overwritten")
            self._file = _unnamed(place)
        except OSError as error:
            raise self._refused(size, error) from error
        try:
            os.posix_fallocate(self._file, 0, size)
            self._direct = _bypass_cache(self._file)
            self._alignment = _memory_alignment(self._file) if self._direct else 1
            self._pool = _started_pool()
        except OSError as error:
            os.close(self._file)
            raise self._refused(size, error) from error
        in_memory = not self._direct or _file_system(os.fstat(self._file).st_dev) in _MEMORY_FILE_SYSTEMS
        self.memory_bytes = size if in_memory else BUFFER_BYTES
        self._bounce: queue.SimpleQueue[mmap.mmap] = queue.SimpleQueue()

    def _refused(self, size: int, error: OSError) -> DeviceError:
        return DeviceError(
            f"{self.path}: the host tier needs a new file of {format_bytes(size)} ({error.strerror or error}); choose "
            "another folder or a new name with --host-tier file:PATH, or ram"
        )

    def store(self, offset: int, source: memoryview) -> None:
        """Write `source` at `offset`, a multiple of BLOCK. Raises DeviceError."""
        self._move(offset, source, self._store)

    def fetch(self, offset: int, target: memoryview) -> None:
        """Read into `target` from `offset`, a multiple of BLOCK. Raises DeviceError."""
        self._move(offset, target, self._fetch)

    def _move(self, offset: int, view: memoryview, move: Callable[[int, memoryview], None]) -> None:
        if offset % BLOCK:
            raise DeviceError(f"a host slot at {offset} is not at a multiple of {BLOCK} bytes: compile the plan again")
        if self._file < 0:
            raise DeviceError("the step is closed: load the plan again")
        starts = range(0, len(view), _PIECE_BYTES)
        try:
            if len(starts) == 1:
                move(offset, view)
                return
            parts = [self._pool.submit(move, offset + at, view[at : at + _PIECE_BYTES]) for at in starts]
            wait(parts)  # all of them: whoever asked may use the memory again, whatever failed
            for part in parts:
                part.result()
        except OSError as error:
            raise DeviceError(f"{self.path}: the host tier failed ({error.strerror or error})") from error

    def _store(self, offset: int, part: memoryview) -> None:
        whole = self._directly(part)
        self._written(part[:whole], offset)
        if whole < len(part):
            with self._bounced(len(part) - whole) as bounce:
                _copy(bounce, part[whole:])
                self._written(bounce, offset + whole)

    def _fetch(self, offset: int, part: memoryview) -> None:
        whole = self._directly(part)
        self._read(part[:whole], offset)
        if whole < len(part):
            with self._bounced(len(part) - whole) as bounce:
                self._read(bounce, offset + whole)
                _copy(part[whole:], bounce[: len(part) - whole])

    def _directly(self, part: memoryview) -> int:
        """How many bytes, from the start, the file system takes from where they are."""
        if not self._direct:
            return len(part)
        address: int = np.frombuffer(part, np.uint8).ctypes.data
        return 0 if address % self._alignment else len(part) // BLOCK * BLOCK

    def _written(self, part: memoryview, offset: int) -> None:
        while part:
            done = os.pwrite(self._file, part, offset)
            if not done:
                raise OSError(errno.ENOSPC, "nothing more can be written")
            part, offset = part[done:], offset + done

    def _read(self, part: memoryview, offset: int) -> None:
        while part:
            done = os.preadv(self._file, [part], offset)
            if not done:
                raise OSError(errno.EIO, "it is shorter than it was made")
            part, offset = part[done:], offset + done

    @contextlib.contextmanager
    def _bounced(self, size: int) -> Iterator[memoryview]:
        """Whole blocks of aligned memory for `size` bytes; there are as many as requests under way."""
        try:
            memory = self._bounce.get_nowait()
        except queue.Empty:
            memory = mmap.mmap(-1, _PIECE_BYTES)
        try:
            yield memoryview(memory)[: align_up(size, BLOCK)]
        finally:
            self._bounce.put(memory)

    def close(self) -> None:
        """Give the space back."""
        if self._file >= 0:
            self._pool.shutdown()
            os.close(self._file)
            self._file = -1


def _started_pool() -> ThreadPoolExecutor:
    """As many threads as requests are under way, all started: none can be refused while a transfer has begun.

    Raises OSError where one is refused now.
    """
    pool, together = ThreadPoolExecutor(_IN_FLIGHT, thread_name_prefix="planc-file"), threading.Barrier(_IN_FLIGHT)
    try:
        wait([pool.submit(together.wait) for _ in range(_IN_FLIGHT)])
    except RuntimeError as error:
        together.abort()
        pool.shutdown()
        raise OSError(errno.EAGAIN, f"no threads for it: {error}") from error
    return pool


def _copy(target: memoryview, source: memoryview) -> None:
    """Copy all of `source` to the start of `target`; numpy's copy releases the interpreter lock."""
    np.copyto(np.frombuffer(target, np.uint8)[: len(source)], np.frombuffer(source, np.uint8))


def _unnamed(place: Path) -> int:
    """A new file without a name. Raises OSError."""
    folder = place if place.is_dir() else place.parent
    with contextlib.suppress(OSError):  # a file system without such files, or one that is refused for another reason
        return os.open(folder, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
    name = folder / f".planc-{os.getpid()}-{os.urandom(6).hex()}"
    file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    name.unlink()
    return file


def _bypass_cache(file: int) -> bool:
    """Set O_DIRECT on an open file; whether its file system takes it."""
    try:
        fcntl.fcntl(file, fcntl.F_SETFL, fcntl.fcntl(file, fcntl.F_GETFL) | os.O_DIRECT)
        with mmap.mmap(-1, BLOCK) as block:
            os.pwrite(file, block, 0)
    except OSError:
        fcntl.fcntl(file, fcntl.F_SETFL, fcntl.fcntl(file, fcntl.F_GETFL) & ~os.O_DIRECT)
        return False
    return True


def _memory_alignment(file: int) -> int:
    """Where memory has to begin for the file to take it without a copy: at multiples of 512 bytes, or of BLOCK."""
    with mmap.mmap(-1, 2 * BLOCK) as memory, memoryview(memory)[512 : 512 + BLOCK] as part:
        try:
            os.pwrite(file, part, 0)
        except OSError:
            return BLOCK
    return 512


def lies_in_memory(folder: Path) -> bool:
    """Whether files in a folder are memory, so that swapping to them saves none."""
    return _file_system(folder.stat().st_dev) in _MEMORY_FILE_SYSTEMS


def _file_system(device: int) -> str:
    """Name of the file system of a device number, empty where the system does not tell."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        mount, _, source = line.partition(" - ")
        if mount.split()[2] == wanted:
            return source.split()[0]
    return ""
