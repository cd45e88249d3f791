"""The comparison's plot: overhead of each solver over the budget, logarithmic; no plan is a cross above the plot."""

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

_FLOOR = 1e-3
"""Overheads below 0.1 % are drawn there: a logarithmic axis has no zero."""


@dataclass(frozen=True, slots=True)
class Mark:
    """One row of the comparison, in the plot's units; `missed` where there is no plan."""

    x: float
    y: float
    tip: str
    missed: bool


@dataclass(frozen=True, slots=True)
class Series:
    """The marks of one solver by budget, and the line through its plans."""

    name: str
    style: str
    marks: tuple[Mark, ...]
    path: str


@dataclass(frozen=True)
class ScatterScene:
    """Series with the axes' ticks: (label, position)."""

    series: tuple[Series, ...]
    x_ticks: tuple[tuple[str, float], ...]
    y_ticks: tuple[tuple[str, float], ...]
    no_plan_y: float | None
    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT
    bottom: float = HEIGHT - BOTTOM
    right: float = WIDTH - RIGHT


def scatter_scene(rows: Sequence[Row], liveness_peak_bytes: int) -> ScatterScene:
    """The plot of `rows`; budgets are shares of the liveness peak."""
    peak = max(liveness_peak_bytes, 1)
    budgets = sorted({row.budget_bytes for row in rows})
    low, high = (budgets[0], budgets[-1]) if budgets else (0, peak)
    margin = max((high - low) * 0.06, high * 0.02, 1.0)
    scale_x = (WIDTH - LEFT - RIGHT) / (high - low + 2 * margin)
    largest = max([row.overhead for row in rows if row.overhead is not None], default=0.1)
    decades = max(1.0, math.log10(max(largest, 0.01) / _FLOOR) + 0.15)

    def x(budget: int) -> float:
        return LEFT + (budget - low + margin) * scale_x

    def y(overhead: float) -> float:
        share = math.log10(max(overhead, _FLOOR) / _FLOOR) / decades
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    names = list(dict.fromkeys(row.solver for row in rows))

    def mark(row: Row) -> Mark:
        if row.overhead is not None:
            return Mark(x(row.budget_bytes), y(row.overhead), _tip(row), missed=False)
        aside = _CROSS * (names.index(row.solver) - (len(names) - 1) / 2)
        return Mark(x(row.budget_bytes) + aside, _NO_PLAN_Y, _tip(row), missed=True)

    series = []
    for position, name in enumerate(names):
        mine = sorted((row for row in rows if row.solver == name), key=lambda row: row.budget_bytes)
        marks = tuple(mark(row) for row in mine)
        points = [f"{m.x:.1f} {m.y:.1f}" for m in marks if not m.missed]
        series.append(Series(name, f"kind{position % 12}", marks, "M" + "L".join(points) if points else ""))
    return ScatterScene(
        series=tuple(series),
        x_ticks=tuple((percent(b / peak), x(b)) for b in budgets),
        y_ticks=tuple((_tick(10.0**e), y(10.0**e)) for e in range(-3, math.floor(-3 + decades) + 1)),
        no_plan_y=_NO_PLAN_Y if any(row.overhead is None for row in rows) else None,
    )


def _tick(overhead: float) -> str:
    return f"{'≤ ' if overhead <= _FLOOR else ''}{100 * overhead:g} %"


def _tip(row: Row) -> str:
    head = f"{row.solver} in {format_bytes(row.budget_bytes)}: {row.status}"
    if row.overhead is None or row.predicted_step_ns is None:
        needs = f"; needs {format_bytes(row.minimum_budget_bytes)}" if row.minimum_budget_bytes else ""
        return head + needs
    return f"{head}, {format_ns(row.predicted_step_ns)}, {percent(row.overhead, signed=True)}"
