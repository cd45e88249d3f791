"""What the plan decided and what each decision costs: copies with the time they hide, recomputations, stalls."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from planc.enums import Direction
from planc.report.view import Content, PlanView


class Kind(StrEnum):
    """What is done with a tensor or layer."""

    SWAP = "swap"
    """Copied to the host and brought back."""

    FETCH = "fetch"
    """Brought from the host, where it lies when the step begins."""

    STORE = "store"
    """Copied to the host and not brought back in this step."""

    RECOMPUTE = "recompute"
    """A layer executed again."""


@dataclass(frozen=True, slots=True)
class Decision:
    """One swapped storage or recomputed layer.

    `bytes` moved in either direction, or made again; `count` copies or repeated runs. `copy_ns` is the time of the
    copies, `hidden_ns` the part during which compute runs, `stall_ns` the time for which compute waits for them and
    nothing else. `compute_ns` is the time of the repeated runs.
    """

    kind: Kind
    name: str
    bytes: int
    count: int
    copy_ns: int = 0
    hidden_ns: int = 0
    stall_ns: int = 0
    compute_ns: int = 0

    @property
    def cost_ns(self) -> int:
        """What the decision adds to the step: stalls and repeated compute. Slow-down of other engines is not in it."""
        return self.stall_ns + self.compute_ns


def decisions_of(view: PlanView) -> tuple[Decision, ...]:
    """Every decision, the most expensive first."""
    found = [*_movements(view), *_recomputations(view)]
    return tuple(sorted(found, key=lambda d: (-d.cost_ns, -d.copy_ns, -d.bytes, d.name)))


def hidden_ns(view: PlanView) -> tuple[int, ...]:
    """For each copy the part of its predicted time during which compute runs."""
    runs, copies = view.plan.prediction.runs, view.plan.prediction.copies
    if not runs or not copies:
        return (0,) * len(copies)
    edges = np.array(runs, np.int64).reshape(-1)
    busy = np.zeros(len(edges), np.int64)
    busy[1::2] = np.cumsum(edges[1::2] - edges[0::2])
    busy[2::2] = busy[1:-1:2]
    spans = np.interp(np.array(copies, np.int64), edges, busy)
    return tuple(int(x) for x in np.rint(spans[:, 1] - spans[:, 0]))


def stalls_ns(view: PlanView) -> tuple[int, ...]:
    """For each copy the time for which compute waits for it: every wait counts for the copy that ends it.

    The waits of compute and the time after the last run add up to the prediction's `stall_ns`, as far as some copy is
    waited for.
    """
    prediction = view.plan.prediction
    found = [0] * len(prediction.copies)
    now = 0
    for run, (start, end) in zip(view.plan.runs, prediction.runs, strict=True):
        _blame(found, run.waits, prediction.copies, start - now)
        now = end
    _blame(found, range(len(found)), prediction.copies, prediction.step_ns - now)
    return tuple(found)


def _blame(found: list[int], waits: Iterable[int], times: tuple[tuple[int, int], ...], gap: int) -> None:
    last = max(waits, key=lambda copy: times[copy][1], default=None)
    if last is not None and gap > 0:
        found[last] += gap


def _movements(view: PlanView) -> list[Decision]:
    by_storage: defaultdict[str, list[int]] = defaultdict(list)
    for index, copy in enumerate(view.plan.copies):
        by_storage[view.plan.residencies[copy.residency].storage].append(index)
    hidden, stalls, times = hidden_ns(view), stalls_ns(view), view.plan.prediction.copies
    return [
        Decision(
            kind=_kind([view.plan.copies[i].direction for i in copies]),
            name=storage,
            bytes=sum(view.plan.copies[i].bytes for i in copies),
            count=len(copies),
            copy_ns=sum(times[i][1] - times[i][0] for i in copies),
            hidden_ns=sum(hidden[i] for i in copies),
            stall_ns=sum(stalls[i] for i in copies),
        )
        for storage, copies in by_storage.items()
    ]


def _kind(directions: Iterable[Direction]) -> Kind:
    seen = set(directions)
    return Kind.SWAP if len(seen) == 2 else Kind.FETCH if Direction.IN in seen else Kind.STORE


def _recomputations(view: PlanView) -> list[Decision]:
    repeats: defaultdict[int, list[int]] = defaultdict(list)
    for position, run in enumerate(view.plan.runs):
        if view.is_repeat[position]:
            repeats[run.layer].append(position)
    rebuilt: defaultdict[int, int] = defaultdict(int)
    for residency in view.residencies:
        if residency.maker is not None and residency.content is not Content.TEMPORARY:
            rebuilt[residency.maker] += residency.bytes
    times = view.plan.prediction.runs
    return [
        Decision(
            kind=Kind.RECOMPUTE,
            name=view.layers[layer].name,
            bytes=sum(rebuilt[p] for p in positions),
            count=len(positions),
            compute_ns=sum(times[p][1] - times[p][0] for p in positions),
        )
        for layer, positions in repeats.items()
    ]
