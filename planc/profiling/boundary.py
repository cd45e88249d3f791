"""Measures what one more segment costs the host: another run call, and the hand-over to a copy thread."""

import queue
import statistics
import threading
import time

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper

from planc.runtime.ort.sessions import bound_run, faithful_options

_REPEATS = 200


def measure_boundary() -> int:
    """Median ns of running one more, almost empty segment, plus that of waking a copy thread."""
    return _empty_segment_ns() + _wake_ns()


def _empty_segment_ns() -> int:
    """Run call of a session that negates one number."""
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "empty", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), faithful_options(), providers=["CPUExecutionProvider"])
    values = np.zeros((2, 16), np.float32)
    binding = session.io_binding()
    binding.bind_input("x", "cpu", 0, np.float32, [1], values[0].ctypes.data)
    binding.bind_output("y", "cpu", 0, np.float32, [1], values[1].ctypes.data)
    run, options = bound_run(session, binding), ort.RunOptions()
    times = []
    for _ in range(_REPEATS):
        start = time.perf_counter_ns()
        run(options)
        times.append(time.perf_counter_ns() - start)
    return int(statistics.median(times))


def _wake_ns() -> int:
    """Half of a round trip to another thread and back."""
    there: queue.SimpleQueue[bool] = queue.SimpleQueue()
    back: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def echo() -> None:
        while there.get():
            back.put(True)

    thread = threading.Thread(target=echo, daemon=True)
    thread.start()
    times = []
    for _ in range(_REPEATS):
        start = time.perf_counter_ns()
        there.put(True)
        back.get()
        times.append(time.perf_counter_ns() - start)
    there.put(False)
    thread.join()
    return int(statistics.median(times)) // 2
