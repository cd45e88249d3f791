"""Memory that this process may still take: what the machine has left, within control groups and the process's own limit.

A container's limit is a control group's; what the machine calls available says nothing of it. Files: proc(5), and Linux's
Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.
"""

import mmap
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PROC, _GROUPS = Path("/proc"), Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class _Names:
    """Files of a control group, and how its statistics call pages of files that it drops before it refuses memory."""

    limit: str
    used: str
    dropped: str


_V1 = _Names("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = _Names("memory.max", "memory.current", "inactive_file")


def free_memory(proc: Path = _PROC, groups: Path = _GROUPS) -> int:
    """Bytes that can be taken before the system refuses or swaps; 0 where it does not say."""
    return max(0, min([_of_machine(proc), *_of_groups(proc, groups), *_of_process(proc)]))


def _of_machine(proc: Path) -> int:
    """What Linux calls available."""
    return _named(proc / "meminfo", "MemAvailable:") * 1024


def _of_groups(proc: Path, groups: Path) -> Iterator[int]:
    """What each control group around the process has left, if it has a limit."""
    for line in _lines(proc / "self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            names, root = _V2, groups
        elif "memory" in controllers.split(","):
            names, root = _V1, groups / "memory"
        else:
            continue
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            limit, used = _number(folder / names.limit), _number(folder / names.used)
            if limit is not None and used is not None:
                yield limit - used + _named(folder / "memory.stat", names.dropped)
            if folder == root:
                break


def _of_process(proc: Path) -> Iterator[int]:
    """Address space that is left where it has a limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    pages = [line.split()[0] for line in _lines(proc / "self/statm")]
    if soft != resource.RLIM_INFINITY and pages:
        yield soft - int(pages[0]) * mmap.PAGESIZE


def _named(path: Path, name: str) -> int:
    """The number behind a name in a file of such lines, 0 where there is none."""
    found = [line.split()[1] for line in _lines(path) if line.split()[:1] == [name]]
    return int(found[0]) if found else 0


def _number(path: Path) -> int | None:
    """A file's number; None for "max" and where there is no such file."""
    text = "".join(_lines(path))
    return int(text) if text.isdigit() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
