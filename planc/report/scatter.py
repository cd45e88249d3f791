"""The comparison's picture: memory against step time, a curve for each solver through its plans.

A plan lies at the memory that it takes, whatever its budget, and at its predicted overhead, on a logarithmic axis;
where it was run, a ring at its measured overhead hangs from it. The front joins the plans than which none is both
smaller and faster. A budget without a plan is a cross above the picture.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from planc.report.row import Row
from planc.report.words import percent
from planc.units import format_bytes, format_ns

WIDTH, HEIGHT = 860.0, 400.0
LEFT, RIGHT, TOP, BOTTOM = 70.0, 20.0, 56.0, 46.0
_NO_PLAN_Y = 26.0
_CROSS = 13.0
"""Distance between the crosses of two solvers at the same budget."""

_COLOURS = 12
"""Number of `kind` colours in the page's style sheet; more series have dashed lines."""

_FLOOR = 1e-3
"""Overheads below 0.1 % are drawn there: a logarithmic axis has no zero."""


@dataclass(frozen=True, slots=True)
class Mark:
    """One row of the comparison, in the plot's units; `missed` where there is no plan, `measured_y` where it was
    run."""

    x: float
    y: float
    tip: str
    missed: bool
    measured_y: float | None = None


@dataclass(frozen=True, slots=True)
class Series:
    """The marks of one solver by budget, and the line through its plans."""

    name: str
    style: str
    marks: tuple[Mark, ...]
    path: str


@dataclass(frozen=True)
class ScatterScene:
    """Series with the axes' ticks (label, position) and the path of the front."""

    series: tuple[Series, ...]
    front: str
    x_ticks: tuple[tuple[str, float], ...]
    y_ticks: tuple[tuple[str, float], ...]
    no_plan_y: float | None
    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT
    bottom: float = HEIGHT - BOTTOM
    right: float = WIDTH - RIGHT


def scatter_scene(rows: Sequence[Row], liveness_peak_bytes: int) -> ScatterScene:
    """The picture of `rows`; memory is told as a share of the liveness peak."""
    peak = max(liveness_peak_bytes, 1)
    budgets = sorted({row.budget_bytes for row in rows})
    places = sorted({*budgets, *(_memory(row) for row in rows)}) or [0, peak]
    low, high = places[0], places[-1]
    margin = max((high - low) * 0.06, high * 0.02, 1.0)
    scale_x = (WIDTH - LEFT - RIGHT) / (high - low + 2 * margin)
    overheads = [o for row in rows for o in (row.overhead, _measured(row)) if o is not None]
    decades = max(1.0, math.log10(max(max(overheads, default=0.1), 0.01) / _FLOOR) + 0.15)

    def x(size: int) -> float:
        return LEFT + (size - low + margin) * scale_x

    def y(overhead: float) -> float:
        share = math.log10(max(overhead, _FLOOR) / _FLOOR) / decades
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    names = list(dict.fromkeys(row.solver for row in rows))

    def mark(row: Row) -> Mark:
        if row.overhead is not None:
            measured = _measured(row)
            at = None if measured is None else y(measured)
            return Mark(x(_memory(row)), y(row.overhead), _tip(row), missed=False, measured_y=at)
        aside = _CROSS * (names.index(row.solver) - (len(names) - 1) / 2) * min(1.0, 8 / len(names))
        return Mark(x(row.budget_bytes) + aside, _NO_PLAN_Y, _tip(row), missed=True)

    series = []
    for position, name in enumerate(names):
        marks = tuple(mark(row) for row in sorted((r for r in rows if r.solver == name), key=_memory))
        points = list(dict.fromkeys(f"{m.x:.1f} {m.y:.1f}" for m in marks if not m.missed))
        style = f"kind{position % _COLOURS}" + (" second" if position >= _COLOURS else "")
        series.append(Series(name, style, marks, "M" + "L".join(points) if points else ""))
    front = [f"{x(_memory(row)):.1f} {y(row.overhead):.1f}" for row in pareto_front(rows) if row.overhead is not None]
    return ScatterScene(
        series=tuple(series),
        front="M" + "L".join(front) if front else "",
        x_ticks=tuple((percent(b / peak), x(b)) for b in budgets),
        y_ticks=tuple((_tick(10.0**e), y(10.0**e)) for e in range(-3, math.floor(-3 + decades) + 1)),
        no_plan_y=_NO_PLAN_Y if any(row.overhead is None for row in rows) else None,
    )


def pareto_front(rows: Sequence[Row]) -> list[Row]:
    """Plans than which no other takes less memory and no more time, or less time and no more memory; by memory."""
    found: list[Row] = []
    for row in sorted((r for r in rows if r.overhead is not None), key=lambda r: (_memory(r), r.overhead or 0.0)):
        if not found or (row.overhead or 0.0) < (found[-1].overhead or 0.0):
            found.append(row)
    return found


def _memory(row: Row) -> int:
    """What a plan takes; the budget where there is none."""
    return row.budget_bytes if row.slab_bytes is None else row.slab_bytes


def _measured(row: Row) -> float | None:
    """The measured overhead, over the predicted step of unlimited memory."""
    if row.measured_step_ns is None or row.overhead is None or not row.predicted_step_ns:
        return None
    return row.measured_step_ns / row.predicted_step_ns * (1 + row.overhead) - 1


def _tick(overhead: float) -> str:
    return f"{'≤ ' if overhead <= _FLOOR else ''}{100 * overhead:g} %"


def _tip(row: Row) -> str:
    head = f"{row.solver} in {format_bytes(row.budget_bytes)}: {row.status}"
    if row.overhead is None or row.predicted_step_ns is None:
        needs = f"; needs {format_bytes(row.minimum_budget_bytes)}" if row.minimum_budget_bytes else ""
        return head + needs
    taken = f" of {format_bytes(row.slab_bytes)}" if row.slab_bytes is not None else ""
    text = f"{head}{taken}, {format_ns(row.predicted_step_ns)}, {percent(row.overhead, signed=True)}"
    if row.measured_step_ns is None or row.prediction_error is None:
        return text
    error = percent(row.prediction_error, signed=True)
    return f"{text}; measured {format_ns(row.measured_step_ns)}, {error} on the prediction"
