"""The predicted step as a trace for Perfetto (ui.perfetto.dev) or chrome://tracing, in Chrome's JSON trace format.

Three threads show the engines, one counter the resident bytes by content, and flow arrows lead from a copy to the run
that waits for it. The format's time unit is the microsecond; three decimals keep the nanoseconds.
"""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from planc.enums import Direction
from planc.files import write_output
from planc.graph.graph import Graph
from planc.plan.plan import Plan
from planc.report.memory import memory_over_time
from planc.report.view import PlanView, view_of

_PROCESS = 1
_THREADS = {"compute": 1, Direction.OUT: 2, Direction.IN: 3}
_NAMES = {1: "compute", 2: "copies out", 3: "copies in"}

Event = dict[str, object]


def write_trace(path: Path, plan: Plan, graph: Graph | None = None) -> None:
    """Write the trace of a plan. Raises PlanError as `view_of`, OutputError when the file cannot be written."""
    view = view_of(plan, graph)
    events = [*_names(view), *_runs(view), *_copies(view), *_flows(view), *_counters(view)]
    text = msgspec.json.encode({"displayTimeUnit": "ns", "traceEvents": events})
    write_output(path, text, "trace")


def _us(ns: int) -> float:
    return ns / 1000


def _event(phase: str, name: str, thread: int, ns: int, **more: object) -> Event:
    return {"ph": phase, "name": name, "pid": _PROCESS, "tid": thread, "ts": _us(ns), **more}


def _names(view: PlanView) -> Iterator[Event]:
    yield _event("M", "process_name", 0, 0, args={"name": f"planc {view.plan.model.file}"})
    for thread, name in _NAMES.items():
        yield _event("M", "thread_name", thread, 0, args={"name": name})
        yield _event("M", "thread_sort_index", thread, 0, args={"sort_index": thread})


def _runs(view: PlanView) -> Iterator[Event]:
    for index, (start, end) in enumerate(view.plan.prediction.runs):
        layer = view.layer(index)
        phase = "recompute" if view.is_repeat[index] else layer.phase
        args = {"run": index, "layer": view.plan.runs[index].layer, "kind": layer.kind}
        yield _event("X", view.title(index), _THREADS["compute"], start, dur=_us(end - start), cat=phase, args=args)


def _copies(view: PlanView) -> Iterator[Event]:
    for index, (copy, (start, end)) in enumerate(zip(view.plan.copies, view.plan.prediction.copies, strict=True)):
        residency = view.residencies[copy.residency]
        args = {"copy": index, "bytes": copy.bytes, "slab_offset": residency.offset, "host_offset": copy.host_offset}
        thread = _THREADS[copy.direction]
        yield _event(
            "X", residency.storage, thread, start, dur=_us(end - start), cat=residency.content.value, args=args
        )


def _flows(view: PlanView) -> Iterator[Event]:
    """From the end of each awaited copy to the start of the run that waits for it."""
    times = view.plan.prediction
    for position, run in enumerate(view.plan.runs):
        for copy in run.waits:
            end = times.copies[copy][1]
            thread = _THREADS[view.plan.copies[copy].direction]
            yield _event("s", "wait", thread, max(times.copies[copy][0], end - 1), id=copy, cat="wait")
            yield _event("f", "wait", _THREADS["compute"], times.runs[position][0], id=copy, cat="wait", bp="e")


def _counters(view: PlanView) -> Iterator[Event]:
    curve = memory_over_time(view)
    for position, at in enumerate(curve.at.tolist()):
        values = {name: int(group[position]) for name, group in curve.groups.items()}
        yield _event("C", "resident bytes", 0, at, args=values)
