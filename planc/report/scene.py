"""The page's pictures as geometry: memory over time, the engines' timeline, the slab map, all on one time axis.

Horizontal units are thousandths of the predicted step, vertical ones are given with each scene. Large plans are
aggregated, so that a page stays small: a picture never draws more than its limit of points or boxes.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from planc.enums import Direction
from planc.graph.graph import Graph
from planc.report.marks import in_flight, stall_tip, stalls
from planc.report.memory import (
    Grouping,
    Ints,
    MemoryCurve,
    by_content,
    by_kind,
    fullest_points,
    memory_over_time,
    unplanned_bytes,
)
from planc.report.view import Content, PlanView
from planc.report.words import ending_of, origin_of, percent, plural
from planc.units import format_bytes, format_ns

WIDTH = 1000.0
HEIGHT = 300.0
LANES = ("compute", "out", "in")

_MAX_POINTS = 1500
_MAX_BLOCKS = 2000
_MAX_STAYS = 3000
_LEAST_SIDE = 0.01
"""Units: a rectangle of no width or height is not drawn at all, and one that is picked has to light."""

_MAX_KINDS = 8
_LEAST_STALL = 5000
"""A gap of compute shorter than this part of the step is not marked."""
_COLOURS = 12
"""Number of `kind` colours in the page's style sheet."""

_OTHER = "other kinds"
_SLUGS = {content.value: content.name.lower() for content in Content}


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle with its CSS class and what to tell about it; `key` is shared by the boxes of one tensor."""

    x: float
    y: float
    width: float
    height: float
    style: str
    tip: str
    key: str = ""


@dataclass(frozen=True, slots=True)
class Band:
    """One group of a stack: the area below its upper edge, to be painted before the bands under it."""

    name: str
    style: str
    path: str


@dataclass(frozen=True)
class Stack:
    """Bands from the top of the stack down, with the numbers behind them: group bytes from each `x` on."""

    bands: tuple[Band, ...]
    x: tuple[float, ...]
    values: dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class MemoryScene:
    """Memory over time; `top` is the bytes at the upper edge. `ghost` is the unplanned step's line, if known."""

    top: int
    stacks: dict[str, Stack]
    ghost: str | None
    ghost_peak: int | None
    flight: str | None
    """The area of what copies read or write, below the stack's upper edge."""


@dataclass(frozen=True)
class SlabScene:
    """Stays as address × time; `left_out` counts the smallest, which are not drawn."""

    boxes: tuple[Box, ...]
    left_out: int


def x_of(view: PlanView, ns: float) -> float:
    """Horizontal position of a predicted time."""
    return WIDTH * ns / max(view.plan.prediction.step_ns, 1)


def memory_scene(view: PlanView, graph: Graph | None) -> MemoryScene:
    """Resident bytes stacked by content and by layer kind, and the unplanned step's bytes where the graph is known."""
    ghost = _ghost(view, graph) if graph is not None else None
    peak = ghost.peak_bytes if ghost is not None else None
    top = round(1.06 * max(view.plan.memory.budget_bytes, view.plan.memory.slab_bytes, peak or 0, 1))
    stacks = {"content": _stack(view, by_content, top), "layer kind": _stack(view, by_kind, top)}
    line = None if ghost is None else "M" + _edge(*_thinned(view, ghost, ghost.total), top)[1:].replace("V", " ", 1)
    return MemoryScene(top, stacks, line, peak, _flight(view, top))


def _flight(view: PlanView, top: int) -> str | None:
    """A rectangle for each stretch in which something is copied."""
    parts, points = [], in_flight(view)
    ends = [*(at for at, _, _ in points[1:]), view.plan.prediction.step_ns]
    for (at, total, moving), end in zip(points, ends, strict=True):
        if moving and end > at:
            upper, lower = (HEIGHT * (1 - size / top) for size in (total, total - moving))
            parts.append(f"M{x_of(view, at):.3f} {upper:.2f}H{x_of(view, end):.3f}V{lower:.2f}H{x_of(view, at):.3f}Z")
    return "".join(parts) or None


def stall_boxes(view: PlanView) -> tuple[Box, ...]:
    """The longest gaps of the compute engine."""
    longest = sorted(stalls(view), key=lambda stall: stall.begin_ns - stall.end_ns)[:_MAX_BLOCKS]
    return tuple(
        Box(x_of(view, s.begin_ns), 0, x_of(view, s.end_ns - s.begin_ns), 1, "stall", stall_tip(view, s))
        for s in longest
        if s.end_ns - s.begin_ns > view.plan.prediction.step_ns // _LEAST_STALL
    )


def _ghost(view: PlanView, graph: Graph) -> MemoryCurve:
    """The unplanned step's bytes, each layer where the plan runs it first."""
    starts = [0, *(end for _, end in view.plan.prediction.runs)][: len(view.plan.runs)]
    return MemoryCurve(np.array(starts, np.int64), {"unplanned": np.array(unplanned_bytes(view, graph), np.int64)})


def _stack(view: PlanView, by: Grouping, top: int) -> Stack:
    curve = _few_groups(memory_over_time(view, by))
    bands, values = [], {}
    held = np.zeros_like(curve.at)
    x: list[float] = []
    for position, (name, group) in enumerate(curve.groups.items()):
        held = held + group
        x, heights = _thinned(view, curve, held)
        values[name] = tuple(int(v) for v in _thinned(view, curve, group)[1])
        bands.append(
            Band(
                name,
                _SLUGS.get(name, f"kind{position % _COLOURS}"),
                f"M0 {HEIGHT:g}{_edge(x, heights, top)}V{HEIGHT:g}Z",
            )
        )
    return Stack(tuple(reversed(bands)), tuple(x), values)


def _few_groups(curve: MemoryCurve) -> MemoryCurve:
    """What lives longest at the bottom; of the layer kinds only the largest, the others joined."""
    contents = [content.value for content in Content if content.value in curve.groups]
    kinds = [name for name in curve.groups if name not in contents]
    kinds.sort(key=lambda name: -int(curve.groups[name].max()))
    groups = {name: curve.groups[name] for name in (*contents, *kinds[:_MAX_KINDS])}
    if kinds[_MAX_KINDS:]:
        groups[_OTHER] = np.sum([curve.groups[name] for name in kinds[_MAX_KINDS:]], axis=0)
    return MemoryCurve(curve.at, groups)


def _thinned(view: PlanView, curve: MemoryCurve, values: Ints) -> tuple[list[float], Ints]:
    """Positions and values of the curve's points, or of the fullest point in each of `_MAX_POINTS` bins."""
    if len(curve.at) <= _MAX_POINTS:
        return [x_of(view, int(t)) for t in curve.at], values
    edges = np.linspace(0, max(view.plan.prediction.step_ns, _MAX_POINTS), _MAX_POINTS + 1).astype(np.int64)
    return [x_of(view, int(t)) for t in edges[:-1]], values[fullest_points(curve, edges)]


def _edge(x: Sequence[float], values: Ints, top: int) -> str:
    """An SVG path along the values, a step at each x, to the right border."""
    parts = [f"H{at:.3f}V{HEIGHT * (1 - int(value) / top):.2f}" for at, value in zip(x, values, strict=True)]
    return "".join(parts) + f"H{WIDTH:g}"


def lanes(view: PlanView) -> dict[str, tuple[Box, ...]]:
    """The boxes of each engine; consecutive actions too short to see are joined."""
    prediction, plan = view.plan.prediction, view.plan
    runs = [
        (*prediction.runs[i], "recompute" if view.is_repeat[i] else view.layer(i).phase, _run_tip(view, i))
        for i in range(len(plan.runs))
    ]
    found = {"compute": _joined(view, runs, "run")}
    for direction in Direction:
        mine = [i for i, copy in enumerate(plan.copies) if copy.direction is direction]
        actions = [(*prediction.copies[i], _copy_style(view, i), _copy_tip(view, i)) for i in mine]
        found[direction.value] = _joined(view, actions, "copy")
    return found


def _run_tip(view: PlanView, run: int) -> str:
    start, end = view.plan.prediction.runs[run]
    return f"{view.title(run)}\nrun {run}, {view.layer(run).kind}\n{format_ns(end - start)} from {format_ns(start)}"


def _copy_style(view: PlanView, copy: int) -> str:
    return _SLUGS[view.residencies[view.plan.copies[copy].residency].content.value]


def _copy_tip(view: PlanView, index: int) -> str:
    copy, (start, end) = view.plan.copies[index], view.plan.prediction.copies[index]
    way = "to the host" if copy.direction is Direction.OUT else "from the host"
    size = f"{format_bytes(copy.bytes)} in {format_ns(end - start)} from {format_ns(start)}"
    return f"{view.plan.residencies[copy.residency].storage}\ncopy {index} {way}\n{size}"


def _joined(view: PlanView, actions: Sequence[tuple[int, int, str, str]], noun: str) -> tuple[Box, ...]:
    """Boxes of one engine's actions (start, end, style, tip), in order, each at least 1/2000 of the step or alone."""
    least = view.plan.prediction.step_ns // _MAX_BLOCKS if len(actions) > _MAX_BLOCKS else 0
    boxes: list[Box] = []
    pending: list[tuple[int, int, str, str]] = []
    for position, action in enumerate(actions):
        pending.append(action)
        following = actions[position + 1][1] if position + 1 < len(actions) else None
        if following is None or following - pending[0][0] > least:
            boxes.append(_block(view, pending, noun))
            pending = []
    return tuple(boxes)


def _block(view: PlanView, actions: Sequence[tuple[int, int, str, str]], noun: str) -> Box:
    start, end = actions[0][0], actions[-1][1]
    share: dict[str, int] = {}
    for a, b, style, _ in actions:
        share[style] = share.get(style, 0) + b - a
    style = max(share, key=share.__getitem__)
    first = actions[0][3].split("\n")[0]
    whole = f"{plural(len(actions), noun)} from {first}\n{format_ns(end - start)} from {format_ns(start)}"
    tip = actions[0][3] if len(actions) == 1 else whole
    return Box(x_of(view, start), 0, x_of(view, end - start), 1, style, tip)


def slab_scene(view: PlanView, wanted: Collection[str] = ()) -> SlabScene:
    """The residencies that cover most of the slab map, and all of the `wanted` storages; vertical units run from 0
    (highest address) to HEIGHT."""
    slab = max(view.plan.memory.slab_bytes, 1)
    ranked = sorted((*view.residencies, *view.scratch), key=lambda s: (s.begin_ns - s.end_ns) * s.bytes)
    keys = {name: str(i) for i, name in enumerate(dict.fromkeys(s.storage for s in (*view.residencies, *view.scratch)))}
    boxes = []
    shown = [r for rank, r in enumerate(ranked) if rank < _MAX_STAYS or r.storage in wanted]
    for residency in shown:
        size = (
            f"{format_bytes(residency.bytes)} at {residency.offset:,} ({percent(residency.bytes / slab)} of the slab)"
        )
        when = (
            f"{format_ns(residency.begin_ns)} – {format_ns(residency.end_ns)}, slots {residency.begin}–{residency.end}"
        )
        way = f"from: {origin_of(view, residency)}\nuntil: {ending_of(view, residency)}"
        boxes.append(
            Box(
                x=x_of(view, residency.begin_ns),
                y=HEIGHT * (1 - (residency.offset + residency.bytes) / slab),
                width=max(_LEAST_SIDE, x_of(view, residency.end_ns - residency.begin_ns)),
                height=max(_LEAST_SIDE, HEIGHT * residency.bytes / slab),
                style=_SLUGS[residency.content.value],
                tip=f"{residency.storage}\n{residency.content.value}, {size}\n{when}\n{way}",
                key=keys[residency.storage],
            )
        )
    return SlabScene(tuple(boxes), len(ranked) - len(shown))
