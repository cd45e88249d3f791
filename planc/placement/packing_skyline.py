"""Skyline packing: fill the lowest valley with the first buffer in a given order that fits, else raise its floor.

The best-fit heuristic of strip packing (Burke, Kendall, Whitwell 2004) with fixed time extents, as Sekiyama et al.
(2018) use it for training memory. O(n log n) in practice, so it serves hundreds of thousands of buffers. Lifetimes with
gaps are packed by their hull, unless they are part of the ground.
"""

import numpy as np

from planc.placement.packing_ground import Ground
from planc.placement.packing_jit import compiled, inner, int64
from planc.placement.packing_model import Array, Model

NONE = np.int64(1) << 62
# Nodes of the tree that one search for a buffer may visit once it has a candidate: quality against time.
PATIENCE = 200


def skyline(model: Model, on: Ground, rank: Array) -> Array:
    """Offsets in bytes; of the buffers that fit a valley the one of lowest `rank` (a permutation) goes first."""
    lower, upper = model.hull()
    bucket = np.searchsorted(lower[on.above], np.arange(model.sections + 1)).astype(np.int64)
    size, alignment = model.size[on.above], model.alignment[on.above]
    offsets = np.zeros(model.count, np.int64)
    offsets[on.beneath] = on.offsets
    offsets[on.above] = _fill(bucket, upper[on.above], size, alignment, rank[on.above], on.floor)
    return offsets


@compiled
def _fill(bucket: Array, upper: Array, size: Array, alignment: Array, rank: Array, ground: Array) -> Array:
    count, sections = len(size), len(ground)
    offsets = np.zeros(count, np.int64)
    leaves = 1
    while leaves < count:
        leaves *= 2
    # Tree over the buffers in order of their first section: earliest end and best rank of the unplaced ones.
    ends, ranks = np.full(2 * leaves, NONE), np.full(2 * leaves, NONE)
    for i in range(count):
        ends[leaves + i], ranks[leaves + i] = upper[i], rank[i]
    for node in range(leaves - 1, 0, -1):
        ends[node] = min(ends[2 * node], ends[2 * node + 1])
        ranks[node] = min(ranks[2 * node], ranks[2 * node + 1])
    lower = np.zeros(count, np.int64)
    for section in range(sections):
        for i in range(bucket[section], bucket[section + 1]):
            lower[i] = section
    # Stretch [s, end[s]) of the skyline has one floor; before[s] is the stretch to its left. Walls close both sides.
    floor = np.zeros(sections + 1, np.int64)
    end, before = np.zeros(sections + 1, np.int64), np.zeros(sections + 1, np.int64)
    at, placed = int64(0), 0
    floor[sections], before[at] = NONE, -1
    for section in range(sections):
        if ground[section] != ground[at]:
            end[at], before[section], at = section, at, int64(section)
        floor[section] = ground[section]
    end[at], before[sections], at = sections, at, int64(0)
    while placed < count:
        left = floor[before[at]] if before[at] >= 0 else NONE
        right = floor[end[at]]
        if left <= floor[at]:
            if left == floor[at]:
                _merge(before[at], at, end, before)
            at = before[at]
            continue
        if right <= floor[at]:
            if right == floor[at]:
                _merge(at, end[at], end, before)
            else:
                at = end[at]
            continue
        best = _first_fit(bucket[at], bucket[end[at]], end[at], ends, ranks, leaves)
        if best < 0:
            floor[at] = min(left, right)
            continue
        step = alignment[best]
        offsets[best] = (floor[at] + step - 1) // step * step
        at = _split(at, lower[best], upper[best], end, before, floor)
        floor[at] = offsets[best] + size[best]
        placed += 1
        node = leaves + best
        ends[node], ranks[node] = NONE, NONE
        while node > 1:
            node //= 2
            ends[node] = min(ends[2 * node], ends[2 * node + 1])
            ranks[node] = min(ranks[2 * node], ranks[2 * node + 1])
    return offsets


@inner
def _merge(left: int, right: int, end: Array, before: Array) -> None:
    """Join two neighbouring stretches into the left one."""
    end[left] = end[right]
    before[end[right]] = left


@inner
def _split(at: int, lower: int, upper: int, end: Array, before: Array, floor: Array) -> int:
    """Cut the stretch `at` so that [lower, upper) is one of its own, and return it."""
    last = end[at]
    if lower > at:
        end[at], end[lower], before[lower], floor[lower] = lower, last, at, floor[at]
        before[last] = lower
    if upper < last:
        end[lower], end[upper], before[upper], floor[upper] = upper, last, lower, floor[at]
        before[last] = upper
    return lower


@inner
def _first_fit(begin: int, stop: int, limit: int, ends: Array, ranks: Array, leaves: int) -> int:
    """Best-ranked unplaced buffer in positions [begin, stop) that ends by `limit`; -1 when there is none.

    Branch and bound over the tree, better-ranked half first; after PATIENCE nodes it settles for the best so far.
    """
    nodes, lows, widths = np.empty(128, np.int64), np.empty(128, np.int64), np.empty(128, np.int64)
    nodes[0], lows[0], widths[0] = 1, 0, leaves
    depth, visited = 1, 0
    best, best_rank = -1, NONE
    while depth and (best < 0 or visited < PATIENCE):
        depth -= 1
        visited += 1
        node, low, width = nodes[depth], lows[depth], widths[depth]
        if low >= stop or low + width <= begin or ends[node] > limit or ranks[node] >= best_rank:
            continue
        if width == 1:
            best, best_rank = low, ranks[node]
            continue
        half = width // 2
        # The stack's top is visited next.
        right_last = np.int64(ranks[2 * node + 1] < ranks[2 * node])
        nodes[depth + right_last], lows[depth + right_last] = 2 * node + 1, low + half
        nodes[depth + 1 - right_last], lows[depth + 1 - right_last] = 2 * node, low
        widths[depth], widths[depth + 1] = half, half
        depth += 2
    return best
