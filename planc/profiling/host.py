"""What the profiler and the default budget need to know of this machine."""

import platform
from dataclasses import dataclass
from pathlib import Path

from planc.cores import cpu_threads
from planc.free_memory import free_memory


@dataclass(frozen=True)
class HostInfo:
    """CPU model, usable cores, and free memory in bytes."""

    name: str
    threads: int
    free_bytes: int


def host_info() -> HostInfo:
    """Read this machine's description."""
    return HostInfo(_cpu_name(), cpu_threads(), free_memory())


def identity(_index: int) -> tuple[str, ...]:
    """What tells this machine's CPU from another: its model and the cores that may be used."""
    host = host_info()
    return host.name, str(host.threads)


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
