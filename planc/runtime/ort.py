"""Sessions of ONNX Runtime that execute exactly what they are told, in file order, with bounded scratch.

One environment-wide arena serves the scratch of every planned session of the process, and one global thread pool runs
them: both are set once and cannot be changed afterwards (ONNX Runtime's rule), so the first plan decides.
"""

import csv
import os
from pathlib import Path
from threading import Lock

import numpy as np
import onnxruntime as ort

from planc.errors import DeviceError
from planc.units import format_bytes

_lock = Lock()
_arena_bytes: int | None = None
_threads: int | None = None

UNBOUNDED = -1
"""Arena size that means: grow as needed."""


def cpu_threads() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))


def prepare_environment(arena_bytes: int) -> None:
    """Set the thread pool and the scratch arena of `arena_bytes` (or UNBOUNDED) for the whole process.

    A later call is satisfied by an arena at least as large. Raises DeviceError when it is smaller.
    """
    global _arena_bytes, _threads  # noqa: PLW0603 - ONNX Runtime's environment is one per process
    with _lock:
        if _threads is None:
            _threads = cpu_threads()
            ort.set_global_thread_pool_sizes(_threads, 1)
        if _arena_bytes is None:
            _register_arena(arena_bytes)
            _arena_bytes = arena_bytes
        enough = _arena_bytes == UNBOUNDED or UNBOUNDED < arena_bytes <= _arena_bytes
        if not enough:
            raise DeviceError(
                f"this process's scratch arena is fixed at {format_bytes(_arena_bytes)} by the first plan it loaded, "
                f"but {format_bytes(arena_bytes)} are needed: load the plan with the largest scratch first, "
                "or use a new process"
            )


def _register_arena(size: int) -> None:
    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    config = {"arena_extend_strategy": 0}
    if size != UNBOUNDED:
        config |= {"max_mem": size, "initial_chunk_size_bytes": size}
    ort.create_and_register_allocator(memory, ort.OrtArenaCfg(config))


def planned_options(stats_file: Path | None = None) -> ort.SessionOptions:
    """Options of a session whose operators run as given: no rewriting, file order, planned scratch.

    With `stats_file` ONNX Runtime writes the scratch allocations of every operator there.
    """
    options = unplanned_options()
    options.add_session_config_entry("session.use_env_allocators", "1")
    if stats_file is not None:
        options.add_session_config_entry("session.collect_node_memory_stats_to_file", str(stats_file))
    return options


def unplanned_options() -> ort.SessionOptions:
    """Options of the reference session: the same kernels in the same order, ONNX Runtime's own memory management."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    options.enable_mem_pattern = False
    options.use_per_session_threads = False
    return options


def versions() -> dict[str, str]:
    """Versions that costs and numerical results depend on."""
    return {"onnxruntime": str(ort.__version__), "numpy": np.__version__}


def read_scratch(stats_file: Path) -> int:
    """Largest sum of temporary allocations (bytes) of one operator in a file that ONNX Runtime wrote for a session."""
    if not stats_file.exists():
        return 0
    with stats_file.open() as stream:
        return max((int(row["total_temp_allocations"]) for row in csv.DictReader(stream)), default=0)
