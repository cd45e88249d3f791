"""Skyline packing: fill the lowest valley with the first buffer in a given order that fits, else raise its floor.

The best-fit heuristic of strip packing (Burke, Kendall, Whitwell 2004) with fixed time extents, as Sekiyama et al.
(2018) use it for training memory. O(n log n) in practice, so it serves hundreds of thousands of buffers. Lifetimes with
gaps are packed by their hull, unless they are part of the ground.
"""

from dataclasses import dataclass

import numpy as np

from planc.compiled.jit import compiled, inner, int64
from planc.compiled.packed import Packed
from planc.packing.heuristics.ground import Ground
from planc.packing.model import Array, Model

NONE = np.int64(1) << 62
"""No buffer, no end, no floor: more than any."""

PATIENCE = 200
"""Nodes of the tree that one search for a buffer may visit once it has a candidate: quality against time."""

_WAITING = 128
"""Nodes at most that wait in such a search: two for every level of the tree."""


@dataclass(frozen=True, eq=False)
class _Valleys(Packed):
    """What a packing works on: the buffers above the ground, in order of their first section, and the skyline.

    `bucket[s]` is the first buffer that begins in section s or later. `ends` and `ranks` are a tree over the buffers:
    earliest end and best rank of the unplaced ones, the root at 1, the buffers from `leaves` on. Stretch [s, `end[s]`) of
    the skyline has one `floor`; `before[s]` is the stretch to its left. Walls close both sides. `waiting` is room.
    """

    bucket: Array
    lower: Array
    upper: Array
    size: Array
    alignment: Array
    offsets: Array
    ends: Array
    ranks: Array
    floor: Array
    end: Array
    before: Array
    waiting: Array
    leaves: int


class Skylines:
    """Packings of one model on one ground, in whatever order."""

    def __init__(self, model: Model, on: Ground) -> None:
        lower, upper = model.hull()
        self._count, self._on = model.count, on
        count, sections = len(on.above), model.sections
        bucket = np.searchsorted(lower[on.above], np.arange(sections + 1)).astype(np.int64)
        leaves = 1 << max(0, count - 1).bit_length()
        self._ends = _tree(upper[on.above], leaves)
        self._floor = np.append(on.floor, NONE)
        self._end, self._before = _stretches(on.floor)
        self._valleys = _Valleys(
            bucket, lower[on.above], upper[on.above], model.size[on.above], model.alignment[on.above],
            np.zeros(count, np.int64), np.zeros(2 * leaves, np.int64), np.zeros(2 * leaves, np.int64),
            np.zeros(sections + 1, np.int64), np.zeros(sections + 1, np.int64), np.zeros(sections + 1, np.int64),
            np.zeros((3, _WAITING), np.int64), leaves,
        )  # fmt: skip

    def pack(self, rank: Array) -> Array:
        """Offsets in bytes; of the buffers that fit a valley the one of lowest `rank` (a permutation) goes first."""
        v, on = self._valleys, self._on
        v.ends[:], v.ranks[:] = self._ends, _tree(rank[on.above], v.leaves)
        v.floor[:], v.end[:], v.before[:] = self._floor, self._end, self._before
        _fill(v)
        offsets = np.zeros(self._count, np.int64)
        offsets[on.beneath] = on.offsets
        offsets[on.above] = v.offsets
        return offsets


def _tree(values: Array, leaves: int) -> Array:
    """The least of the values below every node."""
    tree = np.full(2 * leaves, NONE)
    tree[leaves : leaves + len(values)] = values
    level = leaves // 2
    while level:
        tree[level : 2 * level] = tree[2 * level : 4 * level].reshape(-1, 2).min(axis=1)
        level //= 2
    return tree


def _stretches(ground: Array) -> tuple[Array, Array]:
    """The ends of the stretches of equal ground, and the stretches to their left; the wall on the right is one."""
    starts = np.concatenate([[0], np.flatnonzero(np.diff(ground)) + 1, [len(ground)]])
    end, before = np.zeros(len(ground) + 1, np.int64), np.zeros(len(ground) + 1, np.int64)
    end[starts[:-1]] = starts[1:]
    before[starts[1:]] = starts[:-1]
    before[0] = -1
    return end, before


@compiled
def _fill(v: _Valleys) -> None:
    count, floor, end, before = len(v.size), v.floor, v.end, v.before
    at, placed = int64(0), 0
    while placed < count:
        # 1. The valley at hand must be lower than both neighbours: go down to one, or join what is level.
        left = floor[before[at]] if before[at] >= 0 else NONE
        right = floor[end[at]]
        if left <= floor[at]:
            if left == floor[at]:
                _merge(v, before[at], at)
            at = before[at]
            continue
        if right <= floor[at]:
            if right == floor[at]:
                _merge(v, at, end[at])
            else:
                at = end[at]
            continue
        # 2. The first buffer in order that fits it; where none does, its floor rises to the lower neighbour.
        best = _first_fit(v, v.bucket[at], v.bucket[end[at]], end[at])
        if best < 0:
            floor[at] = min(left, right)
            continue
        # 3. The buffer is placed; its top is the floor of a part of the valley.
        step = v.alignment[best]
        v.offsets[best] = (floor[at] + step - 1) // step * step
        at = _split(v, at, v.lower[best], v.upper[best])
        floor[at] = v.offsets[best] + v.size[best]
        placed += 1
        _remove(v, best)


@inner
def _remove(v: _Valleys, i: int) -> None:
    """Take a placed buffer out of the tree."""
    ends, ranks = v.ends, v.ranks
    node = v.leaves + i
    ends[node], ranks[node] = NONE, NONE
    while node > 1:
        node //= 2
        ends[node] = min(ends[2 * node], ends[2 * node + 1])
        ranks[node] = min(ranks[2 * node], ranks[2 * node + 1])


@inner
def _merge(v: _Valleys, left: int, right: int) -> None:
    """Join two neighbouring stretches into the left one."""
    last = v.end[right]
    v.end[left] = last
    v.before[last] = left


@inner
def _split(v: _Valleys, at: int, lower: int, upper: int) -> int:
    """Cut the stretch `at` so that [lower, upper) is one of its own, and return it."""
    end, before, floor = v.end, v.before, v.floor
    last = end[at]
    if lower > at:
        end[at], end[lower], before[lower], floor[lower] = lower, last, at, floor[at]
        before[last] = lower
    if upper < last:
        end[lower], end[upper], before[upper], floor[upper] = upper, last, lower, floor[at]
        before[last] = upper
    return lower


@inner
def _first_fit(v: _Valleys, begin: int, stop: int, limit: int) -> int:
    """Best-ranked unplaced buffer in positions [begin, stop) that ends by `limit`; -1 when there is none.

    Branch and bound over the tree, better-ranked half first; after PATIENCE nodes it settles for the best so far.
    """
    ends, ranks, waiting = v.ends, v.ranks, v.waiting
    waiting[0, 0], waiting[1, 0], waiting[2, 0] = 1, 0, v.leaves
    depth, visited = 1, 0
    best, best_rank = -1, NONE
    while depth and (best < 0 or visited < PATIENCE):
        depth -= 1
        visited += 1
        node, low, width = waiting[0, depth], waiting[1, depth], waiting[2, depth]
        if low >= stop or low + width <= begin or ends[node] > limit or ranks[node] >= best_rank:
            continue
        if width == 1:
            best, best_rank = low, ranks[node]
            continue
        half = width // 2
        # The last one is visited next.
        right = depth + (1 if ranks[2 * node + 1] < ranks[2 * node] else 0)
        left = 2 * depth + 1 - right
        waiting[0, right], waiting[1, right], waiting[2, right] = 2 * node + 1, low + half, half
        waiting[0, left], waiting[1, left], waiting[2, left] = 2 * node, low, half
        depth += 2
    return best
