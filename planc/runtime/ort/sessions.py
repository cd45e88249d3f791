"""Sessions of ONNX Runtime that execute exactly what they are told, in file order, with bounded scratch.

One environment-wide arena serves the scratch of every planned session of the process, and one global thread pool runs
them: both are set once and cannot be changed afterwards (ONNX Runtime's rule).
"""

import csv
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Lock

import numpy as np
import onnxruntime as ort

from planc.cores import cpu_threads
from planc.errors import DeviceError
from planc.units import format_bytes

Run = Callable[[ort.RunOptions], None]
"""Runs a session on the memory it is bound to, with the options given."""


def bound_run(session: ort.InferenceSession, binding: ort.SessionIOBinding) -> Run:
    """`session` on what `binding` binds, kept alive by the result.

    The one place that reaches into ONNX Runtime's Python classes: their own `run_with_iobinding` looks the same two
    members up at every call, which a step of many segments feels.
    """
    return partial(session._sess.run_with_iobinding, binding._iobinding)


_lock = Lock()
_arena_bytes: int | None = None
_threads: int | None = None


_CONSTANTS_BYTES = 1 << 20
"""Room under the arena's limit for the sessions' small constants, which ONNX Runtime allocates one by one outside the
arena's chunk but counts against its limit; a network of a thousand distinct segments has half as much."""


def prepare_threads() -> None:
    """Give the whole process one thread pool over all its cores; later calls do nothing."""
    global _threads  # ONNX Runtime's environment is one per process
    with _lock:
        if _threads is None:
            _threads = cpu_threads()
            ort.set_global_thread_pool_sizes(_threads, 1)


def reserve_arena(size: int) -> None:
    """Bound the scratch of all planned sessions of this process to `size` bytes, held in one arena.

    The first call decides; a later one asks whether its plan fits. To load several plans in one process, call this
    with the largest `scratch_bytes` first. Raises DeviceError when the arena is smaller than `size`.
    """
    global _arena_bytes  # ONNX Runtime's environment is one per process
    with _lock:
        if _arena_bytes is None:
            memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
            config = {"arena_extend_strategy": 0, "max_mem": size + _CONSTANTS_BYTES, "initial_chunk_size_bytes": size}
            ort.create_and_register_allocator(memory, ort.OrtArenaCfg(config))
            _arena_bytes = size
        if size > _arena_bytes:
            raise DeviceError(
                f"this process's scratch arena is fixed at {format_bytes(_arena_bytes)} by the first plan it loaded, "
                f"but {format_bytes(size)} are needed: call planc.reserve_scratch({size}) before the first planc.load, "
                "or use a new process"
            )


def faithful_options() -> ort.SessionOptions:
    """Options of a session whose operators run as given, in file order: no rewriting, no memory pattern, one thread
    pool for the process. The unplanned reference runs with these, so planned and unplanned kernels are the same.

    Nothing is packed beforehand: a constant operand that is packed is summed in another order, so that its bits would
    depend on whether a session holds it as a constant or is given it, as a segment of a plan is."""
    prepare_threads()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    options.enable_mem_pattern = False
    options.use_per_session_threads = False
    options.add_session_config_entry("session.disable_prepacking", "1")
    return options


def record_scratch(options: ort.SessionOptions, stats_file: Path) -> None:
    """Make ONNX Runtime write the scratch allocations of every operator to `stats_file`; see `read_scratch`."""
    options.add_session_config_entry("session.collect_node_memory_stats_to_file", str(stats_file))


def share_scratch(options: ort.SessionOptions) -> None:
    """Take scratch from the process's bounded arena (`reserve_scratch`), and keep the session's small constants out of
    it: they would stay there and split its free bytes."""
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")


def planned_options() -> ort.SessionOptions:
    """Options of a session on the CPU whose scratch lies where a plan says. Values inside the bodies of functions are given
    back behind their last reader: a buffer that a later one took over would be held in between."""
    options = faithful_options()
    share_scratch(options)
    options.enable_mem_reuse = False
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
