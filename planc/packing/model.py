"""The arrays that packing works on: time reduced to sections, sizes to granules, and the load bound."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import gcd
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from planc.packing.buffers import Buffer

Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Model:
    """Buffers that occupy memory, sorted by first section; `source[i]` is the position in the caller's sequence.

    Time is cut into `sections`, one for every inclusion-maximal set of buffers alive together, in time order: two
    buffers overlap in time exactly when they share a section. Buffer i lives in the half-open section ranges
    [`lower[r]`, `upper[r]`) for r in [`first[i]`, `first[i + 1]`).

    `top` is the size in bytes; `size` is `top` rounded up to the granule, the greatest common divisor of all
    alignments: what the buffer takes from everything above it, since every offset is a multiple of the granule.
    """

    source: Array
    top: Array
    size: Array
    alignment: Array
    first: Array
    lower: Array
    upper: Array
    sections: int

    @property
    def count(self) -> int:
        return len(self.source)

    def hull(self) -> tuple[Array, Array]:
        """First section and end section (half-open) of every buffer, gaps included."""
        return self.lower[self.first[:-1]], self.upper[self.first[1:] - 1]

    def load(self) -> Array:
        """Sum of the granule sizes (bytes) of the buffers alive in every section."""
        return sweep(self.lower, self.upper, np.repeat(self.size, np.diff(self.first)), self.sections)

    def load_bound(self) -> int:
        """No packing is lower than this (bytes): in every section all sizes, less the padding of the one on top."""
        padding = np.repeat(self.size - self.top, np.diff(self.first))
        spared = np.zeros(self.sections, dtype=np.int64)
        for value in np.unique(padding[padding > 0]):
            rows = padding == value
            spared[sweep(self.lower[rows], self.upper[rows], np.ones(rows.sum(), np.int64), self.sections) > 0] = value
        return int((self.load() - spared).max(initial=0))

    def height(self, offsets: Array) -> int:
        return int((offsets + self.top).max(initial=0))

    def components(self) -> list[Array]:
        """Buffers between cuts that no buffer crosses: each group packs on its own, from offset 0."""
        start, end = self.hull()
        cuts = np.flatnonzero(start[1:] >= np.maximum.accumulate(end)[:-1]) + 1
        return np.split(np.arange(self.count), cuts)

    def spanning(self) -> npt.NDArray[np.bool_]:
        """Which buffers live in every section, without padding: none can lie partly beside another in time."""
        start, end = self.hull()
        whole: npt.NDArray[np.bool_] = np.equal(np.diff(self.first), 1) & np.equal(end - start, self.sections)
        return np.logical_and(whole, np.equal(self.size, self.top))

    def compact(self) -> "Model":
        """The same buffers with the sections of their own: the maximal sets alive together."""
        lower, upper, sections = _reduce_time(self.lower, self.upper)
        return replace(self, lower=lower, upper=upper, sections=sections)

    def meetings(self) -> npt.NDArray[np.bool_]:
        """Whether buffers i and k, two different ones, are alive at a common time, as a square matrix."""
        start, end = self.hull()
        meets = (start[:, None] < end) & (start < end[:, None])
        for i in np.flatnonzero(np.diff(self.first) > 1):
            alive = np.zeros(len(self.lower), np.bool_)
            for row in range(self.first[i], self.first[i + 1]):
                alive |= (self.lower < self.upper[row]) & (self.lower[row] < self.upper)
            meets[i] = meets[:, i] = np.logical_or.reduceat(alive, self.first[:-1])
        np.fill_diagonal(meets, False)
        return meets

    def select(self, chosen: Array) -> "Model":
        """The model of some of the buffers (ascending positions), with sections counted from their first."""
        spans = np.diff(self.first)[chosen]
        first = np.concatenate([[0], np.cumsum(spans)])
        rows = np.repeat(self.first[chosen] - first[:-1], spans) + np.arange(first[-1])
        lower, upper = self.lower[rows], self.upper[rows]
        base = int(lower.min())
        return Model(
            self.source[chosen], self.top[chosen], self.size[chosen], self.alignment[chosen],
            first, lower - base, upper - base, int(upper.max()) - base,
        )  # fmt: skip


def build_model(buffers: Sequence["Buffer"]) -> Model:
    """Reduce the buffers with a size and a lifetime; the others take no memory."""
    used = [i for i, buffer in enumerate(buffers) if buffer.size and buffer.lifetimes]
    used.sort(key=lambda i: buffers[i].lifetimes[0][0])
    chosen = [buffers[i] for i in used]
    rows = np.array([interval for b in chosen for interval in b.lifetimes], dtype=np.int64).reshape(-1, 2)
    lower, upper, sections = _reduce_time(rows[:, 0], rows[:, 1])
    top = np.array([b.size for b in chosen], dtype=np.int64)
    alignment = np.array([b.alignment for b in chosen], dtype=np.int64)
    granule = gcd(*{b.alignment for b in chosen}) or 1
    first = np.cumsum([0, *(len(b.lifetimes) for b in chosen)], dtype=np.int64)
    size = -(-top // granule) * granule
    return Model(np.array(used, dtype=np.int64), top, size, alignment, first, lower, upper, sections)


def _reduce_time(lower: Array, upper: Array) -> tuple[Array, Array, int]:
    """Time intervals as ranges of sections.

    Between two consecutive end points the set of live buffers is constant. It is maximal when a buffer ends right
    after it and one began since the previous end; the other stretches add no conflict and are dropped.
    """
    ends = np.unique(upper)
    begins = np.unique(lower)
    # The stretch before an end is maximal when some begin lies in [previous end, this end).
    kept = ends[np.diff(np.searchsorted(begins, ends), prepend=0) > 0]
    # Interval [l, u) covers the stretches that close at the kept ends in (l, u].
    return (
        np.searchsorted(kept, lower, side="right").astype(np.int64),
        np.searchsorted(kept, upper, side="right").astype(np.int64),
        len(kept),
    )


def sweep(lower: Array, upper: Array, weight: Array, sections: int) -> Array:
    """For every section the sum of the weights of those with lower <= section < upper."""
    steps = np.zeros(sections + 1, dtype=np.int64)
    np.add.at(steps, lower, weight)
    np.subtract.at(steps, upper, weight)
    return np.cumsum(steps)[:-1]
