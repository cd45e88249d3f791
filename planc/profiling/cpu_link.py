"""Measures the way to the host tier: copy time by size, and how running copies and compute slow each other down."""

import statistics
import threading
import time
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper

from planc.costs.table import CopyPoint, Link, monotone
from planc.runtime.ort.sessions import faithful_options
from planc.runtime.tiers import HostTier, open_tier, tier_kind

_SIZES = tuple(4096 * 4**step for step in range(7))
"""4 KiB … 16 MiB."""
_REGION = 64 << 20
_PPM = 1_000_000


def measure_link(host_tier: str) -> Link:
    """Copy times of the tier, as `planc.runtime.tiers` names it, and the contention between copies and compute on this
    machine."""
    tier = open_tier(host_tier, _REGION)
    slab = np.ones(_REGION, np.uint8)
    try:
        tier.store(0, slab.data)  # touch every page once, as the runtime does before its first step
        points = tuple(_point(tier, slab, size) for size in _SIZES)
        return Link(points=monotone(points), tier=tier_kind(host_tier), **_contention(tier, slab))
    finally:
        tier.close()


def _point(tier: HostTier, slab: np.ndarray, size: int) -> CopyPoint:
    """Median over offsets that wander through the region, so that caches hold no more than they would in a step."""
    count = max(5, min(40, _REGION // size))
    offsets = [(i * 7919 * 4096) % (_REGION - size + 1) // 4096 * 4096 for i in range(count)]
    out = [_timed(tier.store, o, slab[o : o + size]) for o in offsets]
    in_ = [_timed(tier.fetch, o, slab[o : o + size]) for o in offsets]
    return CopyPoint(size=size, out_ns=int(statistics.median(out)), in_ns=int(statistics.median(in_)))


def _timed(move: Callable[[int, memoryview], None], offset: int, part: np.ndarray) -> int:
    start = time.perf_counter_ns()
    move(offset, part.data)
    return time.perf_counter_ns() - start


class _Load:
    """Keeps a thread busy with copies in one direction and counts how long each takes."""

    def __init__(self, move: Callable[[int, memoryview], None], slab: np.ndarray, start: int) -> None:
        self.move, self.slab, self.start = move, slab, start
        self.times: list[int] = []
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        size, at = 4 << 20, self.start
        while not self.stop.is_set():
            self.times.append(_timed(self.move, at, self.slab[at : at + size]))
            at = self.start + (at + size - self.start) % (_REGION // 2)

    def __enter__(self) -> "_Load":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()

    @property
    def median_ns(self) -> float:
        """Median time of one copy while it ran."""
        return statistics.median(self.times)


def _contention(tier: HostTier, slab: np.ndarray) -> dict[str, int]:
    """Slow-downs in ppm, each the ratio of medians measured in alternation."""
    compute = reference_compute()
    half = _REGION // 2
    alone = _compute_times(compute)
    with _Load(tier.store, slab, 0) as out:
        one = _compute_times(compute)
    with _Load(tier.store, slab, 0) as busy_out, _Load(tier.fetch, slab, half) as busy_in:
        two = _compute_times(compute)
    with _Load(tier.store, slab, 0) as quiet:
        time.sleep(0.15)
    with _Load(tier.store, slab, 0) as duplex_out, _Load(tier.fetch, slab, half) as duplex_in:
        time.sleep(0.15)
    base = statistics.median(alone)
    copy = quiet.median_ns
    return {
        "compute_one_copy_ppm": _ppm(statistics.median(one) / base),
        "compute_two_copies_ppm": _ppm(statistics.median(two) / base),
        "copy_duplex_ppm": _ppm((duplex_out.median_ns + duplex_in.median_ns) / 2 / copy),
        "copy_compute_ppm": _ppm(max(out.median_ns, min(busy_out.median_ns, busy_in.median_ns)) / copy),
    }


def _compute_times(compute: Callable[[], None]) -> list[int]:
    times = []
    for _ in range(20):
        start = time.perf_counter_ns()
        compute()
        times.append(time.perf_counter_ns() - start)
    return times


def _ppm(ratio: float) -> int:
    return max(0, round((ratio - 1) * _PPM))


def reference_compute() -> Callable[[], None]:
    """A convolution followed by an element-wise pass: what a training step mostly is."""
    x = np.ones((4, 64, 56, 56), np.float32)
    w = np.full((64, 64, 3, 3), 0.01, np.float32)
    types = {"x": x.shape, "w": w.shape, "y": x.shape, "z": x.shape}
    infos = {name: helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in types.items()}
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4), helper.make_node("Add", ["x", "y"], ["z"])]
    graph = helper.make_graph(nodes, "reference", [infos["x"], infos["w"]], [infos["z"]])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), faithful_options(), providers=["CPUExecutionProvider"])

    def compute() -> None:
        session.run(["z"], {"x": x, "w": w})

    return compute
