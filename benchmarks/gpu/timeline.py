"""Where a planned step's time goes on the card: events around every segment and copy of a launched step, beside the
prediction.

    PYTHONPATH=SITE python3 benchmarks/gpu/timeline.py PLANS CASE.BUDGET ...

For each engine the time it is busy, measured and predicted; how long compute stands still; the overlap achieved, which
is the part of all copying during which compute was busy; and how much longer than predicted segments take, by the part of
their time during which something is copied.
"""

import sys
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from card_networks import build
from processes import alone

from planc.enums import Direction
from planc.graph.graph import Graph
from planc.plan.executed import executed
from planc.plan.plan import Plan
from planc.plan.residency_index import ResidencyIndex
from planc.runtime.cuda.device import CudaDevice
from planc.runtime.cuda.driver import call, elapsed_ns, new_event
from planc.runtime.device import Engine
from planc.runtime.measure import synthetic_feeds
from planc.runtime.step import load

Span = tuple[float, float]


class Watched:
    """Puts timing events around what a device queues."""

    def __init__(self, device: CudaDevice) -> None:
        self.device, self.marks = device, list[tuple[Engine, Any, Any]]()
        self.launch, self.copy = device.launch, device.copy
        device.launch = lambda segment: self._around(Engine.COMPUTE, lambda: self.launch(segment))  # type: ignore[method-assign]
        device.copy = lambda engine, *rest: self._around(engine, lambda: self.copy(engine, *rest))  # type: ignore[method-assign]

    def _around(self, engine: Engine, queue: Callable[[], None]) -> None:
        start, end = new_event(timing=True), new_event(timing=True)
        call("cuEventRecord", start, self.device._streams[engine])
        queue()
        call("cuEventRecord", end, self.device._streams[engine])
        self.marks.append((engine, start, end))

    def spans(self) -> dict[Engine, list[Span]]:
        """ms since the first segment's start, in the order of queueing."""
        origin = next(start for engine, start, _ in self.marks if engine is Engine.COMPUTE)
        found: dict[Engine, list[Span]] = {engine: [] for engine in Engine}
        for engine, start, end in self.marks:
            found[engine].append((elapsed_ns(origin, start) / 1e6, elapsed_ns(origin, end) / 1e6))
        return found


def busy(spans: list[Span]) -> float:
    return sum(end - start for start, end in spans)


def shared(copies: list[Span], compute: list[Span]) -> float:
    """Time of copies during which compute is busy."""
    return sum(max(0.0, min(e, f) - max(s, t)) for s, e in copies for t, f in compute)


def launched(plan: Plan, graph: Graph) -> list[Span]:
    """Predicted start and end (ns) of every segment that has something to run: the others are not launched."""
    parts, runs = executed(graph, plan.runs, plan.segments, ResidencyIndex(plan.residencies)), plan.prediction.runs
    return [(runs[part.first][0], runs[part.end - 1][1]) for part in parts if not part.empty]


def slower(predicted: list[Span], compute: list[Span], copies: list[Span]) -> dict[str, str]:
    """Measured and predicted ms of segments, by how much of their time is shared with copies."""
    sums: dict[str, list[float]] = {}
    for (start, end), span in zip(predicted, compute, strict=True):
        part = shared(copies, [span]) / (span[1] - span[0])
        bucket = (
            "no copy" if part < 0.02 else "part of the time" if part < 0.9 else "one" if part < 1.5 else "two copies"
        )
        known = sums.setdefault(bucket, [0.0, 0.0, 0.0])
        for i, value in enumerate((1, span[1] - span[0], (end - start) / 1e6)):
            known[i] += value
    return {name: f"{n:.0f} segments, {a:.2f} / {b:.2f}" for name, (n, a, b) in sums.items()}


def watch(plan: Plan, case: str) -> dict[str, Any]:
    """One launched step after two others."""
    imported = build(case)
    with load(plan, imported, replay=False) as step:
        feeds = synthetic_feeds(imported.graph, 0)
        step(feeds)
        step(feeds)
        watched = Watched(step.device)  # type: ignore[arg-type]
        step._executor.run_step()
        spans = watched.spans()
    compute, copies = spans[Engine.COMPUTE], spans[Engine.OUT] + spans[Engine.IN]
    ahead = plan.prediction
    facts: dict[str, Any] = {
        "step_ms": [max(e for _, e in compute), ahead.step_ns / 1e6],
        "compute_ms": [busy(compute), sum(e - s for s, e in ahead.runs) / 1e6],
        "gaps_ms": sorted((round(b[0] - a[1], 2) for a, b in pairwise(compute)), reverse=True)[:6],
        "segments_ms": slower(launched(plan, imported.graph), compute, copies),
        "overlap": shared(copies, compute) / busy(copies) if copies else None,
    }
    for direction, engine in ((Direction.OUT, Engine.OUT), (Direction.IN, Engine.IN)):
        predicted = [t for t, c in zip(ahead.copies, plan.copies, strict=True) if c.direction is direction]
        sizes = sum(c.bytes for c in plan.copies if c.direction is direction)
        name = engine.name.lower()
        facts[f"{name}_ms"] = [busy(spans[engine]), sum(e - s for s, e in predicted) / 1e6]
        facts[f"{name}_GB/s"] = sizes / 1e6 / busy(spans[engine]) if spans[engine] else None
    return facts


if __name__ == "__main__":
    for name in sys.argv[2:]:
        plan = Plan.load(Path(sys.argv[1]) / f"{name}.plan.json")
        print(name, alone(partial(watch, plan, name.split(".")[0])), flush=True)
