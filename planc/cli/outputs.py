"""Where a command's results go, checked before the work: no input is written over, and no result is lost at the end."""

import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from planc.errors import OutputError, UsageError
from planc.files import writable


def require_outputs(inputs: Iterable[Path | None], outputs: Mapping[str, Path | None]) -> None:
    """Raise OutputError for an output, given by the option that names it, that cannot be written, and UsageError for one
    that is an input, the external data of one, or another output. Paths that are None are not asked for."""
    read: dict[Path, Path] = {}
    for path in inputs:
        if path is not None:
            for file in (path, path.parent / f"{path.name}.data"):
                read[Path(os.path.realpath(file))] = file
    if any(path is not None and path.exists() for path in outputs.values()):  # what is not there is no input's data
        from planc.importer.weights import data_files  # takes a while to import

        for path in [path for path in read.values() if path.suffix == ".onnx"]:
            read |= {Path(os.path.realpath(file)): file for file in data_files(path)}
    taken: dict[Path, str] = {}
    for option, path in outputs.items():
        if path is None:
            continue
        target = _target(option, path)
        if target is None:
            continue
        for known, file in read.items():
            if target == known or _same(target, known):
                raise UsageError(f"{option} {path}: this is {file}, which the command reads; choose another file")
        if target in taken:
            raise UsageError(f"{option} {path}: {taken[target]} goes there too; choose another file")
        taken[target] = option


def _target(option: str, path: Path) -> Path | None:
    """The file behind `path`, None for a stream such as a terminal."""
    try:
        target, mode = writable(path)
    except OSError as error:
        raise OutputError(f"{option} {path}: it cannot be written ({error.strerror or error})") from error
    return target if mode is None or stat.S_ISREG(mode) else None


def _same(a: Path, b: Path) -> bool:
    """Whether two names are one file: hard links."""
    try:
        return os.path.samestat(os.stat(a), os.stat(b))
    except OSError:
        return False
