"""The doors through which planc reads what users name and writes what they asked for.

Reading: regular files only, of a size that is looked at first. A name inside a model or plan is followed only to a file
below that file's folder. Writing: a reader sees the old content or the new, never a part.
"""

import contextlib
import errno
import fcntl
import os
import re
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec

from planc.errors import OutputError

LARGEST_DOCUMENT = 1 << 30
"""Bytes of a JSON, CSV or ONNX file without external data, at most: half of what a protocol buffer can hold."""

_LINE_BREAK = re.compile(rb"(?<!\\)(?:\\\\)*\\(?:[nr]|u000[aAdD])")
"""The escape of a line feed or carriage return; JSON has them in no other form within a string."""

UNREADABLE = (OSError, UnicodeDecodeError, RecursionError, msgspec.MsgspecError)
"""What reading and decoding a JSON document raises: no file, no text, too deep, truncated, of other types."""

_LONGEST_NAME = 255
_TEMPORARY = ".planc"
_SWEPT_AFTER_S = 60.0

_UMASK = os.umask(0o077)
os.umask(_UMASK)


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A regular file, open for reading. Raises OSError: also for a folder, device, pipe or socket, which is never opened,
    so that none can keep the process waiting."""
    _require_regular(os.stat(path))
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC), "rb") as stream:
        _require_regular(os.fstat(stream.fileno()))
        yield stream


def read_file(path: Path, limit: int = LARGEST_DOCUMENT) -> bytes:
    """The content of a regular file of at most `limit` bytes. Raises OSError as `opened`, and for a larger file."""
    with opened(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > limit:
            raise OSError(errno.EFBIG, f"it has {size} bytes, more than the {limit} that planc reads")
        return stream.read(size)


def read_json(path: Path, limit: int = LARGEST_DOCUMENT) -> bytes:
    """The JSON text of a file others may have written. Raises what `read_file` does, and one of `UNREADABLE` where a string
    in it has a line break, which none of planc's has: in a message, what follows would pass for a line of planc's own."""
    data = read_file(path, limit)
    if _LINE_BREAK.search(data):
        raise msgspec.ValidationError("a string in it has a line break")
    return data


def _require_regular(info: os.stat_result) -> None:
    if not stat.S_ISREG(info.st_mode):
        raise OSError(errno.EINVAL, "not a regular file")


def below(folder: Path, name: str) -> Path:
    """The file that a model or plan in `folder` means by `name`, links followed.

    Raises OSError where that is no place below the folder, whether or not something is there.
    """
    if not name or "\0" in name or len(os.fsencode(name)) > 4 * _LONGEST_NAME:
        raise OSError(errno.EINVAL, f"{name[:40]!r} of {len(name)} characters is not the name of a file")
    base = folder.resolve()
    path = (base / name).resolve()
    if not path.is_relative_to(base) or path == base or ".." in Path(name).parts:
        raise OSError(errno.EACCES, f"{name!r} lies outside the folder")
    return path


def write_output(path: Path, data: bytes, what: str) -> None:
    """`atomic_write`, for content that messages call `what`. Raises OutputError naming the file and the reason."""
    write_outputs({path: data}, what)


def write_outputs(contents: Mapping[Path, bytes], what: str) -> None:
    """`write_output` of several files: none of them takes its place before all are on the disk. Raises OutputError."""
    with ExitStack() as stack:
        for path, data in contents.items():
            stack.enter_context(_output(path, data, what))


@contextmanager
def _output(path: Path, data: bytes, what: str) -> Iterator[None]:
    try:
        with _written(path, data):
            yield
    except (OSError, ValueError) as error:  # the second for a name that no file can have
        raise OutputError(
            f"{path}: the {what} cannot be written ({getattr(error, 'strerror', None) or error})"
        ) from error


def atomic_write(path: Path, data: bytes) -> None:
    """Write `data` to `path`: a file is replaced whole or, when OSError is raised, left as it was.

    A link is followed and stays. A replaced file keeps its permissions. What is there and cannot be replaced (a terminal,
    a pipe, `/dev/null`) is written into. Other kinds of files, folders and disks among them, are refused.
    """
    with _written(path, data):
        pass


@contextmanager
def _written(path: Path, data: bytes) -> Iterator[None]:
    """`atomic_write`, at the end of the block and if that ends well; a file's room on the disk is taken before."""
    target, mode = writable(path)
    if mode is not None and not stat.S_ISREG(mode):
        yield
        _write_into(target, data)
        return
    with replacing(target, mode) as stream:
        stream.write(data)
        stream.flush()
        yield


def _write_into(target: Path, data: bytes) -> None:
    with open(target, "wb", buffering=0) as stream:
        left = memoryview(data)
        while left:
            left = left[stream.write(left) :]


def writable(path: Path) -> tuple[Path, int | None]:
    """The file that an output to `path` goes to, links followed, and the mode of what is there, None for nothing.

    Raises OSError where it cannot be written: no folder, no permission, something that is neither a file nor a stream.
    """
    target = Path(os.path.realpath(path))
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if not target.parent.is_dir():
            raise OSError(errno.ENOENT, f"there is no folder {target.parent}") from None
        _require_access(target.parent)
        return target, None
    if not (stat.S_ISREG(mode) or stat.S_ISCHR(mode) or stat.S_ISFIFO(mode)):
        raise OSError(errno.EINVAL, "there is something else than a file")
    _require_access(path)
    return (target if stat.S_ISREG(mode) else path), mode


def _require_access(path: Path) -> None:
    if not os.access(path, os.W_OK):
        raise OSError(errno.EACCES, f"no permission to write {path}")


@contextmanager
def replacing(target: Path, mode: int | None = None) -> Iterator[BinaryIO]:
    """A temporary file beside `target`, which takes its place, with permissions `mode` or usual ones, when the block ends,
    and is removed when the block fails. Raises OSError.

    Temporary files that killed processes have left for the same target are removed: nobody holds their locks.
    """
    _sweep(target)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=_prefix(target), suffix=_TEMPORARY)
    try:
        with os.fdopen(handle, "wb") as stream:
            with contextlib.suppress(OSError):  # a file system without locks: left-overs are not swept there
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield stream
            stream.flush()
            os.fchmod(handle, 0o666 & ~_UMASK if mode is None else stat.S_IMODE(mode))
            os.fsync(handle)
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    _sync_folder(target.parent)


def _prefix(target: Path) -> str:
    return f".{os.fsdecode(os.fsencode(target.name)[: _LONGEST_NAME - 40])}."


def _sweep(target: Path) -> None:
    for left in target.parent.glob(f"{_escaped(_prefix(target))}????????{_TEMPORARY}"):
        with contextlib.suppress(OSError), open(left, "rb") as stream:
            if time.time() - os.fstat(stream.fileno()).st_mtime > _SWEPT_AFTER_S:
                fcntl.flock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
                left.unlink()


def _escaped(text: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in text)


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
