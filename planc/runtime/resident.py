"""Memory of a process as the system sees it, on Linux; all sizes in bytes."""

import contextlib
import ctypes
import json
import subprocess
import sys
from pathlib import Path

from planc.errors import DeviceError

_PROCESSES, _OWN = Path("/proc"), "self"
_RESET_PEAK = "5"


def resident_bytes(process: int | None = None) -> int:
    """What this process, or the one of a number, holds now; 0 when it has ended."""
    return _status("VmRSS", process)


def peak_resident_bytes() -> int:
    """The most that it held since `reset_peak`, or since it began where that is not allowed."""
    return _status("VmHWM")


def reset_peak() -> None:
    """Let the peak begin with what is held now."""
    with contextlib.suppress(OSError):
        (_PROCESSES / _OWN / "clear_refs").write_text(_RESET_PEAK)


def _status(field: str, process: int | None = None) -> int:
    try:
        text = (_PROCESSES / (_OWN if process is None else str(process)) / "status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    for line in text.splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) << 10
    return 0


def release_unused() -> None:
    """Give back to the system what the C library keeps for later: loading leaves some megabytes in small pieces."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


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
