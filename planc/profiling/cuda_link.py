"""Measures a card's way to page-locked memory: copy times by size, and what copies and compute cost each other."""

import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import helper

from planc.costs.table import CopyPoint, Link, monotone
from planc.enums import HostTierKind
from planc.graph.annotations import IR_VERSION
from planc.runtime.cuda.driver import allocate, allocate_pinned, call, elapsed_ns, new_event, new_stream
from planc.runtime.cuda.graph import Replay, record
from planc.runtime.cuda.provider import cuda_session, run_options
from planc.runtime.device import Engine
from planc.runtime.ort.sessions import bound_run

_SIZES = tuple(4096 * 4**step for step in range(8))
"""4 KiB … 64 MiB."""
_REGION = 256 << 20
_CHUNK = 16 << 20
_PPM = 1_000_000
_REPLAYS = 7
_BOUNDARIES = 64


class LinkMeter:
    """Two regions, one for each direction, on the card and in page-locked memory."""

    def __init__(self, index: int = 0) -> None:
        self.device = allocate(2 * _REGION, "measuring copies")
        self.host = allocate_pinned(2 * _REGION, "measuring copies")
        self.streams = {engine: new_stream() for engine in Engine}
        self.compute = _Reference(index, self.streams[Engine.COMPUTE])
        self.replays: list[Replay] = []

    def measure(self) -> Link:
        """Copy times alone on the link, in the order of a replayed step, and the contention."""
        points = tuple(
            CopyPoint(size=size, out_ns=self._copy_ns(Engine.OUT, size), in_ns=self._copy_ns(Engine.IN, size))
            for size in _SIZES
        )
        return Link(points=monotone(points), tier=HostTierKind.RAM, **self._contention())

    def _copy(self, engine: Engine, size: int, index: int) -> None:
        region = 0 if engine is Engine.OUT else _REGION
        at = region + index * size % (_REGION - size + 1) // 512 * 512
        if engine is Engine.OUT:
            call("cuMemcpyDtoHAsync", self.host + at, self.device + at, size, self.streams[engine])
        else:
            call("cuMemcpyHtoDAsync", self.device + at, self.host + at, size, self.streams[engine])

    def _copy_ns(self, engine: Engine, size: int) -> int:
        count = max(4, min(64, _REGION // size))
        replay = self.copies(engine, size, count)
        return round(statistics.median(self._elapsed({engine: replay})[engine] for _ in range(_REPLAYS)) / count)

    def recorded(self, engine: Engine, queue: Callable[[], None]) -> Replay:
        """A replay of what `queue` puts on an engine's stream."""
        self.replays.append(record(queue, self.streams[engine], [s for e, s in self.streams.items() if e != engine]))
        return self.replays[-1]

    def _elapsed(self, work: dict[Engine, Replay]) -> dict[Engine, float]:
        """ns from start to end of each engine's work, all started together."""
        starts = {engine: new_event(timing=True) for engine in work}
        ends = {engine: new_event(timing=True) for engine in work}
        for engine in work:
            call("cuEventRecord", starts[engine], self.streams[engine])
        for engine, replay in work.items():
            replay()
            call("cuEventRecord", ends[engine], self.streams[engine])
        for engine in work:
            call("cuStreamSynchronize", self.streams[engine])
        times = {engine: float(elapsed_ns(starts[engine], ends[engine])) for engine in work}
        for event in (*starts.values(), *ends.values()):
            call("cuEventDestroy", event)
        return times

    def _contention(self) -> dict[str, int]:
        """Slow-downs in ppm: medians of whole replays, each while longer work keeps the other engine busy."""
        chunks = _REGION // _CHUNK
        short = {e: self.copies(e, _CHUNK, chunks) for e in (Engine.OUT, Engine.IN)}
        long = {e: self.copies(e, _CHUNK, 4 * chunks) for e in (Engine.OUT, Engine.IN)}
        span = self.median(short[Engine.OUT], {}, Engine.OUT)
        once = self.compute.once_ns(self)
        few = self.recorded(Engine.COMPUTE, lambda: self.compute.queue(max(1, round(span / once))))
        many = self.recorded(Engine.COMPUTE, lambda: self.compute.queue(max(4, round(4 * span / once))))
        alone = self.median(few, {}, Engine.COMPUTE)
        one = self.median(few, {Engine.OUT: long[Engine.OUT]}, Engine.COMPUTE)
        two = self.median(few, long, Engine.COMPUTE)
        duplex = self.median(short[Engine.OUT], {Engine.IN: long[Engine.IN]}, Engine.OUT)
        busy = self.median(short[Engine.OUT], {Engine.COMPUTE: many}, Engine.OUT)
        return {
            "compute_one_copy_ppm": slowdown_ppm(one / alone),
            "compute_two_copies_ppm": slowdown_ppm(two / alone),
            "copy_duplex_ppm": slowdown_ppm(duplex / span),
            "copy_compute_ppm": slowdown_ppm(busy / span),
        }

    def copies(self, engine: Engine, size: int, count: int) -> Replay:
        """A replay of so many copies of `size` bytes."""

        def queue() -> None:
            for index in range(count):
                self._copy(engine, size, index)

        return self.recorded(engine, queue)

    def settle(self) -> None:
        """Wait for all streams."""
        for stream in self.streams.values():
            call("cuStreamSynchronize", stream)

    def median(self, work: Replay, others: dict[Engine, Replay], engine: Engine) -> float:
        """Median time (ns) of `work` on its engine while the `others` run."""
        return statistics.median(self._elapsed({**others, engine: work})[engine] for _ in range(_REPLAYS))

    def boundary_ns(self) -> int:
        """What a hand-over from compute to a copy stream and back adds to a replayed chain of runs."""

        def handing_over() -> None:
            for _ in range(_BOUNDARIES):
                self.compute.queue(1)
                self._hand_over(Engine.COMPUTE, Engine.OUT)
                self._copy(Engine.OUT, 64, 0)
                self._hand_over(Engine.OUT, Engine.COMPUTE)

        plain = self.recorded(Engine.COMPUTE, lambda: self.compute.queue(_BOUNDARIES))
        handed = self.recorded(Engine.COMPUTE, handing_over)
        spent = [self.median(replay, {}, Engine.COMPUTE) for replay in (plain, handed)]
        return max(0, round((spent[1] - spent[0]) / _BOUNDARIES))

    def _hand_over(self, source: Engine, target: Engine) -> None:
        event = new_event()
        call("cuEventRecord", event, self.streams[source])
        call("cuStreamWaitEvent", self.streams[target], event, 0)
        call("cuEventDestroy", event)

    def close(self) -> None:
        """Free memory, graphs and streams."""
        for replay in self.replays:
            replay.close()
        self.compute.close()
        for stream in self.streams.values():
            call("cuStreamDestroy", stream)
        call("cuMemFree", self.device)
        call("cuMemFreeHost", self.host)


class _Reference:
    """A convolution followed by an element-wise pass: what a training step mostly is. Its tensors exceed the card's
    second-level cache, so that it meets copies where a step does, in memory."""

    def __init__(self, index: int, stream: Any) -> None:
        shapes = {"x": (64, 64, 56, 56), "w": (64, 64, 3, 3), "y": (64, 64, 56, 56), "z": (64, 64, 56, 56)}
        infos = {n: helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, shape) for n, shape in shapes.items()}
        nodes = [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4), helper.make_node("Add", ["x", "y"], ["z"])]
        graph = helper.make_graph(nodes, "reference", [infos["x"], infos["w"]], [infos["y"], infos["z"]])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=IR_VERSION)
        self.session = cuda_session(model.SerializeToString(), index, int(stream))
        sizes = {name: int(np.prod(shape)) * 4 for name, shape in shapes.items()}
        self.memory = allocate(sum(sizes.values()), "measuring copies")
        call("cuMemsetD32", self.memory, 0x3C23D70A, sum(sizes.values()) // 4)  # 0.01 everywhere
        call("cuCtxSynchronize")
        self.binding, at = self.session.io_binding(), self.memory
        for name, shape in shapes.items():
            bind = self.binding.bind_input if name in "xw" else self.binding.bind_output
            bind(name, "cuda", index, np.float32, shape, at)
            at += sizes[name]
        self.options, self._run = run_options(), bound_run(self.session, self.binding)
        self.session.run_with_iobinding(self.binding)

    def queue(self, count: int) -> None:
        """Queue `count` runs."""
        for _ in range(count):
            self._run(self.options)

    def once_ns(self, meter: LinkMeter) -> float:
        """Time of one run within a replay."""
        replay = meter.recorded(Engine.COMPUTE, lambda: self.queue(32))
        return meter.median(replay, {}, Engine.COMPUTE) / 32

    def close(self) -> None:
        """Let the session go once its callbacks are past."""
        self.session.run_with_iobinding(self.binding)
        del self._run, self.binding, self.session
        call("cuMemFree", self.memory)


def slowdown_ppm(ratio: float) -> int:
    """By how much more than 1, in parts per million."""
    return max(0, round((ratio - 1) * _PPM))
