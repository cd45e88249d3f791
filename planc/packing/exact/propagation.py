"""Bounds of the exact search: placing a buffer, and what follows for those that it meets, with a trail to undo it."""

from planc.compiled.jit import inner, int64
from planc.packing.exact.conflicts import blame, blame_section, cause_like, cause_of_delay, clear_conflict
from planc.packing.exact.state import CONFLICT, EXCESS, NONE, SECTION, PackingProblem, State

ROUNDS = 8
"""Rounds of raising bounds: those of delayed buffers may push each other up in steps of the smallest size, and a few rounds
give most of it."""


@inner
def propagate(p: PackingProblem, s: State, begin: int, end: int, tail: int) -> int:
    """Raise bounds until nothing changes, or ROUNDS times. The trail's new length n, or -1 - n at a dead end."""
    for _ in range(ROUNDS):
        if is_full(p, s, tail):
            break
        # 1. Sections that changed: whether what is left still fits, and what it leaves for each buffer.
        tail = _survey_stale(p, s, tail)
        if tail < 0:
            return tail
        # 2. Buffers that changed, and delayed ones whose support rose.
        before = tail
        for at in range(begin, end):
            i = s.work[at]
            if s.fresh[i]:
                tail = _review(p, s, i, tail)
                if tail < 0:
                    return tail
            if s.delayed[i]:
                k = s.support[i]
                if s.placed[k] or s.offset[k] + p.size[k] > s.offset[i]:
                    tail = _raise_delayed(p, s, i, tail)
                    if tail < 0:
                        return tail
        if tail == before:
            break
    return tail


@inner
def is_full(p: PackingProblem, s: State, tail: int) -> bool:
    """Whether the trail may be too short for the next round."""
    return tail >= len(s.trail) - 3 * len(p.size) - 2 * len(p.load)


@inner
def _survey_stale(p: PackingProblem, s: State, tail: int) -> int:
    """Look at the sections where something changed. As `propagate` returns."""
    sections, queue = len(p.load), s.queue
    while queue[sections] > 0:
        queue[sections] -= 1
        section = queue[queue[sections]]
        s.stale[section] = False
        tail = _survey(p, s, section, tail)
        if s.reach[section] > p.capacity + p.padding:
            s.weight[section] += 1.0
            s.last[SECTION] = section
            blame_section(p, s, section)
            return -1 - tail
    return tail


@inner
def _survey(p: PackingProblem, s: State, section: int, tail: int) -> int:
    """Stack the unplaced buffers of a section in the order of their bounds, none below its own."""
    ends, count = s.ends, int64(0)
    for at in range(p.alive_first[section], p.alive_first[section + 1]):
        i = p.alive[at]
        if not s.placed[i]:
            bound, q = s.offset[i], count
            while q > 0 and ends[0, q - 1] > bound:
                ends[0, q], ends[1, q] = ends[0, q - 1], ends[1, q - 1]
                q -= 1
            ends[0, q], ends[1, q] = bound, p.size[i]
            count += 1
    # The lowest one of all lies no higher than this.
    reach, options, lowest = int64(0), int64(0), p.capacity + p.padding - s.remaining[section]
    for q in range(count):
        reach = max(reach, ends[0, q]) + ends[1, q]
        options += ends[0, q] <= lowest
    trail = s.trail
    trail[tail, 0], trail[tail, 1] = len(p.size) + section, s.floor[section]
    trail[tail, 2], trail[tail, 3] = s.reach[section], s.options[section]
    s.floor[section] = ends[0, 0] if count else NONE
    s.reach[section], s.options[section] = reach, options
    return tail + 1


@inner
def _review(p: PackingProblem, s: State, i: int, tail: int) -> int:
    """Whether a buffer can lie at its bound at all, and whether it can rest there. As `propagate` returns."""
    excess = s.offset[i] + p.top[i] - p.capacity
    if excess > 0:
        s.control[EXCESS] = min(s.control[EXCESS], excess)
        clear_conflict(s)
        blame(s, s.why[i], int64(CONFLICT))
        return -1 - tail
    s.fresh[i] = False
    if not s.delayed[i]:
        excess = s.offset[i] + _most_remaining(p, s, i) - p.capacity - p.padding
        if excess > 0:
            s.control[EXCESS] = min(s.control[EXCESS], excess)
            tail = record(s, i, tail)
            s.delayed[i], s.delay[i] = True, s.why[i]
    return tail


@inner
def _most_remaining(p: PackingProblem, s: State, i: int) -> int:
    most, remaining = int64(0), s.remaining
    for r in range(p.first[i], p.first[i + 1]):
        for section in range(p.lower[r], p.upper[r]):
            most = max(most, remaining[section])
    return most


@inner
def _raise_delayed(p: PackingProblem, s: State, i: int, tail: int) -> int:
    """A delayed buffer lies at the lowest on an unplaced one that it meets. As `propagate` returns."""
    lowest = int64(NONE)
    for at in range(p.near_first[i], p.near_first[i + 1]):
        k = p.near[at]
        if not s.placed[k] and s.offset[k] + p.size[k] < lowest:
            lowest = s.offset[k] + p.size[k]
            s.support[i] = k
    if lowest == NONE:
        clear_conflict(s)
        blame(s, s.delay[i], int64(CONFLICT))
        return -1 - tail
    bound = _aligned(lowest, p.alignment[i])
    if bound > s.offset[i]:
        tail = record(s, i, tail)
        s.offset[i], s.why[i] = bound, cause_of_delay(p, s, i, bound)
        s.fresh[i] = True
        _mark_stale(p, s, i)
    return tail


@inner
def place(p: PackingProblem, s: State, i: int, tail: int, level: int) -> int:
    """Put buffer i at its bound, beneath all unplaced ones that it meets. The trail's new length."""
    s.placed[i] = True
    add_remaining(p, s, i, -p.size[i])
    _mark_stale(p, s, i)
    why = cause_like(s, s.why[i])
    s.causes[why, level >> 6] |= int64(1) << (level & 63)
    top = s.offset[i] + p.size[i]
    for at in range(p.near_first[i], p.near_first[i + 1]):
        k = int64(p.near[at])
        if not s.placed[k] and (s.delayed[k] or s.offset[k] < top):
            tail = record(s, k, tail)
            if s.offset[k] < top:
                s.offset[k], s.why[k] = _aligned(top, p.alignment[k]), why
                _mark_stale(p, s, k)
            # The buffer beneath that it waited for may be this one.
            s.delayed[k], s.fresh[k] = False, True
    return tail


@inner
def unplace(p: PackingProblem, s: State, i: int) -> None:
    """Take back `place`, apart from what the trail holds."""
    s.placed[i] = False
    add_remaining(p, s, i, p.size[i])


@inner
def add_remaining(p: PackingProblem, s: State, i: int, change: int) -> None:
    """Add to the sizes to be placed in the buffer's sections."""
    remaining = s.remaining
    for r in range(p.first[i], p.first[i + 1]):
        for section in range(p.lower[r], p.upper[r]):
            remaining[section] += change


@inner
def _mark_stale(p: PackingProblem, s: State, i: int) -> None:
    """The buffer's sections are to be looked at again. A mark that outlives its path costs time only."""
    sections, queue, stale = len(p.load), s.queue, s.stale
    for r in range(p.first[i], p.first[i + 1]):
        for section in range(p.lower[r], p.upper[r]):
            if not stale[section]:
                stale[section] = True
                queue[queue[sections]] = section
                queue[sections] += 1


@inner
def record(s: State, i: int, tail: int) -> int:
    """Keep a buffer's bound and delay, and their reasons. The trail's new length."""
    trail = s.trail
    trail[tail, 0], trail[tail, 1], trail[tail, 2] = i, s.offset[i], s.delayed[i]
    trail[tail, 3], trail[tail, 4] = s.why[i], s.delay[i]
    return tail + 1


@inner
def undo(s: State, tail: int, to: int) -> int:
    """Restore what the trail holds beyond length `to`."""
    count, trail = len(s.offset), s.trail
    while tail > to:
        tail -= 1
        i, bound, third, fourth = trail[tail, 0], trail[tail, 1], trail[tail, 2], trail[tail, 3]
        if i < count:
            s.offset[i], s.delayed[i], s.why[i], s.delay[i] = bound, third != 0, fourth, trail[tail, 4]
        else:
            s.floor[i - count], s.reach[i - count], s.options[i - count] = bound, third, fourth
    return tail


@inner
def _aligned(offset: int, alignment: int) -> int:
    return (offset + alignment - 1) // alignment * alignment
