"""Buffers that must share one offset, because sections of the load's full height leave no choice.

In a section whose load equals the capacity, the buffers alive fill every byte. Take two such sections: the buffers of
the one that are not alive in the other fill the same bytes as those of the other that are not alive in the one. Where
that is a single buffer on each side, both lie at the same offset, and become one buffer with a lifetime of two parts;
which leaves fewer buffers on each side of other pairs of sections. Holds for that capacity only.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from planc.packing.model import Array, Model

TIGHT_SECTIONS = 1_000
"""Pairs of sections are compared as a matrix; of more sections some are left out."""


@dataclass(frozen=True)
class Tied:
    """A model in which buffers that must share an offset are one; buffer i of the original is `group[i]` in it."""

    model: Model
    group: Array


def tie(model: Model, capacity: int) -> Tied | None:
    """The buffers tied together by sections of load `capacity` (bytes); None when that proves it too small."""
    group = np.arange(model.count)
    uniform = len(np.unique(model.alignment)) == 1 and np.array_equal(model.size, model.top)
    tight = np.flatnonzero(model.load() == capacity)[:TIGHT_SECTIONS] if uniform else np.zeros(0, np.int64)
    alive = _alive(model, tight)
    while len(tight) > 1:
        pairs = _pairs(alive)
        if not pairs:
            break
        for one, other in pairs:
            one, other = sorted((int(group[one]), int(group[other])))
            if one != other:
                alive[:, one] |= alive[:, other]
                alive[:, other] = False
                group[group == other] = one
    kept, group = np.unique(group, return_inverse=True)
    if len(kept) == model.count:
        return Tied(model, group)
    return _joined(model, group, kept)


def _alive(model: Model, sections: Array) -> npt.NDArray[np.bool_]:
    """Whether a buffer is alive in a section, as a matrix of sections by buffers."""
    rows = (model.lower <= sections[:, None]) & (sections[:, None] < model.upper)
    found: npt.NDArray[np.bool_] = np.logical_or.reduceat(rows, model.first[:-1], axis=1)
    return found


def _pairs(alive: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Buffers that are alone, each in one of two sections, in not being alive in the other."""
    here = alive.astype(np.float32)
    only = np.rint(here @ (1 - here).T).astype(np.int64)
    found = set()
    for s, t in np.argwhere((only == 1) & (only.T == 1)):
        if s < t:
            found.add((int(np.argmax(alive[s] & ~alive[t])), int(np.argmax(alive[t] & ~alive[s]))))
    return sorted(found)


def _joined(model: Model, group: Array, kept: Array) -> Tied | None:
    """The model of the groups, or None when buffers of one are alive together."""
    spans: list[list[tuple[int, int]]] = [[] for _ in kept]
    for i in range(model.count):
        rows = range(model.first[i], model.first[i + 1])
        spans[group[i]] += [(int(model.lower[r]), int(model.upper[r])) for r in rows]
    lower: list[int] = []
    upper: list[int] = []
    first = [0]
    for parts in spans:
        parts.sort()
        end = -1
        for a, b in parts:
            if a < end:
                return None
            if a == end:
                upper[-1] = b
            else:
                lower.append(a)
                upper.append(b)
            end = b
        first.append(len(lower))
    joined = replace(
        model, source=model.source[kept], top=model.top[kept], size=model.size[kept], alignment=model.alignment[kept],
        first=np.array(first), lower=np.array(lower), upper=np.array(upper),
    )  # fmt: skip
    return Tied(joined.compact(), group)
