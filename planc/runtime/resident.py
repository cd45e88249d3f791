"""Memory of this process as the system sees it, on Linux; all sizes in bytes."""

import contextlib
import ctypes
import json
import subprocess
import sys
from pathlib import Path

from planc.errors import DeviceError

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"

_STEP_BYTES, _PART_BYTES = 32 << 20, 20 << 10
"""What a loaded step takes beside the plan's memory: graph, nodes and code; and each of its parts: session and bindings.
Measured with ResNet-18 and GPT-2 (docs/results/memory.md)."""


def resident_bytes() -> int:
    """What the process holds now."""
    return _status("VmRSS")


def peak_resident_bytes() -> int:
    """The most that it held since `reset_peak`, or since it began where that is not allowed."""
    return _status("VmHWM")


def reset_peak() -> None:
    """Let the peak begin with what is held now."""
    with contextlib.suppress(OSError):
        _CLEAR.write_text(_RESET_PEAK)


def _status(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) << 10
    return 0


def release_unused() -> None:
    """Give back to the system what the C library keeps for later: loading leaves some megabytes in small pieces."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def predicted_growth_bytes(memory_bytes: int, parts: int, feed_bytes: int, largest_state_bytes: int) -> int:
    """By how much a process is expected to grow when it loads a plan of `memory_bytes` (slab, scratch, and what of the
    host tier lies in memory) with so many `parts`, and runs it on feeds of this size, of which the caller holds two.

    Initial values pass through memory one at a time.
    """
    return memory_bytes + _STEP_BYTES + parts * _PART_BYTES + 2 * feed_bytes + largest_state_bytes


def unplanned_growth_bytes(model: Path, steps: int, seed: int) -> int:
    """By how much another process grows when it reads a model and runs it unplanned on the CPU.

    Raises DeviceError where it fails.
    """
    arguments = [sys.executable, "-m", "planc.runtime.unplanned", str(model), str(steps), str(seed)]
    result = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if result.returncode:
        last = result.stderr.strip().splitlines()[-1:] or [f"exit code {result.returncode}"]
        raise DeviceError(f"the unplanned graph does not run in a process of its own: {last[0]}")
    return int(json.loads(result.stdout)["growth"])
