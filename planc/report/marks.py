"""Marks on the page's pictures: what copies hold in flight, and where compute stands still and why."""

from dataclasses import dataclass

import numpy as np

from planc.report.memory import memory_over_time
from planc.report.view import PlanView
from planc.units import format_bytes, format_ns

_MOST_POINTS = 1500


@dataclass(frozen=True, slots=True)
class Stall:
    """A stretch [`begin_ns`, `end_ns`) in which compute waits before `run`, and what it waits for."""

    run: int
    begin_ns: int
    end_ns: int
    cause: str


def stalls(view: PlanView) -> tuple[Stall, ...]:
    """Every gap between two runs on the compute engine, in order.

    The cause is the awaited copy that ends last, if it ends where the run begins or within the gap; a gap without one is
    the change from one session to the next.
    """
    found, before = [], 0
    times = view.plan.prediction
    for index, (begin, end) in enumerate(times.runs):
        if begin > before:
            found.append(Stall(index, before, begin, _cause(view, index, before)))
        before = end
    if times.step_ns > before:
        found.append(
            Stall(len(times.runs) - 1, before, times.step_ns, "the step's last copies end after its last layer")
        )
    return tuple(found)


def _cause(view: PlanView, run: int, since_ns: int) -> str:
    copies, ends = view.plan.copies, view.plan.prediction.copies
    late = [copy for copy in view.plan.runs[run].waits if ends[copy][1] > since_ns]
    if not late:
        return "the change to the next session"
    last = max(late, key=lambda copy: ends[copy][1])
    storage = view.plan.residencies[copies[last].residency].storage
    way = "to leave" if copies[last].direction.value == "out" else "to come back"
    return f"waits for {storage} {way}: copy {last}, {format_bytes(copies[last].bytes)}"


def stall_tip(view: PlanView, stall: Stall) -> str:
    """What the page tells of a stall."""
    length = f"{format_ns(stall.end_ns - stall.begin_ns)} from {format_ns(stall.begin_ns)}"
    return f"compute stands still\nbefore {view.title(stall.run)}\n{length}\n{stall.cause}"


def in_flight(view: PlanView) -> list[tuple[int, int, int]]:
    """(time ns, resident bytes, of these the bytes that a copy reads or writes just then), from each time to the next."""
    curve = memory_over_time(view)
    change: dict[int, int] = {}
    for copy, (begin, end) in zip(view.plan.copies, view.plan.prediction.copies, strict=True):
        size = view.plan.residencies[copy.residency].bytes
        change[begin] = change.get(begin, 0) + size
        change[end] = change.get(end, 0) - size
    total, at = curve.total, np.unique(np.concatenate([curve.at, np.array(sorted(change), np.int64)]))
    moving = np.cumsum([change.get(int(moment), 0) for moment in at])
    place = np.searchsorted(curve.at, at, "right") - 1
    points = [(int(t), int(total[p]), int(min(m, total[p]))) for t, p, m in zip(at, place, moving, strict=True)]
    if len(points) <= _MOST_POINTS:
        return points
    return [max(part, key=lambda point: point[2]) for part in _parts(points, -(-len(points) // _MOST_POINTS))]


def _parts(points: list[tuple[int, int, int]], size: int) -> list[list[tuple[int, int, int]]]:
    return [points[i : i + size] for i in range(0, len(points), size)]
