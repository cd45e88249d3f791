"""Memory over a step: bytes resident in the slab, stacked by what they are, over slots or over predicted time."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from planc.graph.footprint import Footprint, footprints
from planc.graph.graph import Graph
from planc.graph.liveness import live_bytes
from planc.report.view import PlanView, ResidencyView

Ints = np.ndarray[Any, np.dtype[np.int64]]
Grouping = Callable[[PlanView, ResidencyView], str]


@dataclass(frozen=True)
class MemoryCurve:
    """Bytes by group, constant on each [`at[i]`, `at[i + 1]`), from `at[0]` = 0; zero from the last point on.

    `at` counts slots or nanoseconds and never falls; where several operators fall on the same nanosecond, so do their
    points. `groups` maps each group to its bytes (int64, as long as `at`); `total` is their sum.
    """

    at: Ints
    groups: dict[str, Ints]

    @property
    def total(self) -> Ints:
        """Bytes of all groups."""
        return np.sum(list(self.groups.values()), axis=0) if self.groups else np.zeros_like(self.at)

    @property
    def peak_bytes(self) -> int:
        """The largest total."""
        return int(self.total.max(initial=0))


@dataclass(frozen=True)
class Peak:
    """The first slot at which the most bytes are resident, its run, and the residencies there, largest first."""

    slot: int
    run: int
    bytes: int
    residencies: tuple[ResidencyView, ...]


def by_content(_: PlanView, residency: ResidencyView) -> str:
    """Group by what the bytes are: state, batch, saved activations, gradients, temporaries, constants."""
    return residency.content.value


def by_kind(view: PlanView, residency: ResidencyView) -> str:
    """Group computed bytes by the kind of the layer that makes them, the rest by content."""
    maker = _maker(view, residency)
    return residency.content.value if maker is None else view.layer(maker).kind


def by_phase(view: PlanView, residency: ResidencyView) -> str:
    """Group computed bytes by the phase of the layer that makes them, the rest by content."""
    maker = _maker(view, residency)
    return residency.content.value if maker is None else view.layer(maker).phase


def _maker(view: PlanView, residency: ResidencyView) -> int | None:
    """The run that made the residency's content, before it went to the host and back if it did."""
    return residency.maker if residency.brought_by is None else view.makers.get(residency.storage)


def _held(view: PlanView) -> tuple[ResidencyView, ...]:
    """Everything that holds bytes of the slab."""
    return (*view.residencies, *view.scratch)


def memory_over_slots(view: PlanView, by: Grouping = by_content) -> MemoryCurve:
    """Resident bytes at every slot. Its peak is what the residencies need, in-place bytes counted once."""
    events = np.array([(s.begin, s.end) for s in _held(view)], np.int64).reshape(-1, 2)
    return _curve(view, by, events, events)


def memory_over_time(view: PlanView, by: Grouping = by_content) -> MemoryCurve:
    """Resident bytes over predicted time. While a run executes they are those of `memory_over_slots`."""
    slots = np.array([(s.begin, s.end) for s in _held(view)], np.int64).reshape(-1, 2)
    times = np.array([(s.begin_ns, s.end_ns) for s in _held(view)], np.int64).reshape(-1, 2)
    return _curve(view, by, times, slots)


def _curve(view: PlanView, by: Grouping, at: Ints, slots: Ints) -> MemoryCurve:
    """Sum the residencies between their begin and end; points on the same `at` are kept apart by their slot."""
    labels = [by(view, residency) for residency in _held(view)]
    names = sorted(set(labels))
    column = {name: i for i, name in enumerate(names)}
    group = np.array([column[label] for label in labels], np.int64)
    size = np.array([residency.bytes for residency in _held(view)], np.int64)
    keys = np.stack([at.T.reshape(-1), slots.T.reshape(-1)], axis=1)
    points, position = np.unique(np.vstack([keys, [[0, 0]]]), axis=0, return_inverse=True)
    change = np.zeros((len(points), len(names)), np.int64)
    np.add.at(change, (position.reshape(-1)[:-1], np.tile(group, 2)), np.concatenate([size, -size]))
    held = change.cumsum(axis=0)
    return MemoryCurve(points[:, 0], {name: held[:, i] for name, i in column.items()})


def peak_of(view: PlanView) -> Peak:
    """Where the most bytes are resident, and what is there."""
    curve = memory_over_slots(view)
    slot = int(curve.at[int(curve.total.argmax())])
    residencies = sorted((s for s in _held(view) if s.begin <= slot < s.end), key=lambda s: (-s.bytes, s.storage))
    return Peak(slot, view.run_at(slot), sum(s.bytes for s in residencies), tuple(residencies))


def fullest_points(curve: MemoryCurve, edges: Ints) -> Ints:
    """For each bin [`edges[i]`, `edges[i + 1]`) the index of the curve's fullest point that lasts into it."""
    total = curve.total
    first = np.searchsorted(curve.at, edges[:-1], "left")
    exact = curve.at[np.minimum(first, len(curve.at) - 1)] == edges[:-1]
    starts = np.where(exact, first, first - 1)
    stops = np.maximum(np.searchsorted(curve.at, edges[1:], "left"), starts + 1)
    return np.array([a + int(total[a:b].argmax()) for a, b in zip(starts, stops, strict=True)], np.int64)


def unplanned_bytes(view: PlanView, graph: Graph) -> tuple[int, ...]:
    """For each run the bytes that its layer has live, operator scratch left out, in the step of unlimited memory.

    A recomputation has no counterpart there and repeats the value of the run before it.
    """
    prints: tuple[Footprint, ...] = footprints(graph)
    live = live_bytes(graph, prints)
    found: list[int] = []
    for position, run in enumerate(view.plan.runs):
        found.append(found[-1] if view.is_repeat[position] else live[run.layer])
    return tuple(found)
