"""The processor cores that this process may use."""

import os


def cpu_threads() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))
