"""Exact search for a packing within a capacity: depth-first, on the skyline, compiled.

A buffer *rests* when no unplaced buffer will go beneath it; its offset is then the top of what is placed under it.
Every packing can be pushed down until each buffer rests on another one or on the ground, so it suffices to branch, for
one unplaced buffer, on: it rests now, below all unplaced buffers that it meets in time; or one of those goes beneath
it (it is *delayed*). The frame is MiniMalloc's (Moffitt, ASPLOS 2023: section floors and totals, dominance,
decomposition at empty cuts); the delayed branch replaces its canonical order and gives stronger bounds:

- a delayed buffer lies at least at the lowest top among the unplaced buffers that it meets;
- the unplaced buffers of a section, stacked in the order of their bounds, none below its own, must fit the capacity;
- a buffer whose resting would waste more than a section can spare is delayed without search;
- a buffer that fits beneath everything it meets rests without an alternative;
- buffers of equal size, lifetime and alignment are delayed together.

A failure that does not rest on a placement leaves out its alternatives (`planc.packing.exact.conflicts`), and
subproblems that failed once are recognised.
"""

import numpy as np

from planc.compiled.jit import compiled, inner, int64
from planc.packing.exact.conflicts import blame_around, blame_delays, blame_members, cause_like
from planc.packing.exact.propagation import is_full, place, propagate, record, undo, unplace
from planc.packing.exact.state import (
    BEGIN,
    BUFFER,
    CAUSES,
    CONFLICT,
    COUNT,
    CURSOR,
    ENTRY,
    ENTRY_CAUSES,
    FORCED,
    KEY,
    LIMIT,
    MEMORY,
    NODES,
    NONE,
    PLACED,
    PLACED_CAUSES,
    SECTION,
    SLOT,
    STOP,
    PackingProblem,
    State,
    Weights,
    new_state,
)
from planc.packing.model import Array

FAILED, FOUND, STOPPED = 0, 1, 2
"""How a search ends."""

LOWEST, FEWEST, LAST = 0, 2, 4
"""Which buffer to branch on: the one that rests lowest; the lowest in the section with the fewest that can be its lowest,
for the dead ends it caused (dom/wdeg of Boussemart et al., ECAI 2004); LAST added: one in the section of the last dead end,
where one rests in it (Lecoutre et al., AIJ 2009)."""


def search(
    problem: PackingProblem, rank: Array, choice: int, control: Array, weight: Weights, memory: Array
) -> Array | int:
    """Offsets within the capacity, or FAILED when there are none (a proof), or STOPPED.

    Ties between buffers go to the lowest `rank`. `control`: see NODES … EXCESS. `weight` counts, per section, the dead
    ends it caused. `memory` holds the failures of earlier searches with a capacity at least as large.
    """
    state = new_state(problem, rank, choice, control, weight, memory)
    outcome = _search(problem, state)
    return state.offset if outcome == FOUND else outcome


@compiled
def _search(p: PackingProblem, s: State) -> int:
    frames = s.frames
    for i in range(len(p.size)):
        s.work[i] = i
    depth, tail = int64(0), int64(0)
    frames[0, BEGIN], frames[0, COUNT], frames[0, ENTRY_CAUSES] = 0, len(p.size), s.last[CAUSES]
    entering, result = True, FOUND
    while depth >= 0:
        begin = frames[depth, BEGIN]
        end = begin + frames[depth, COUNT]
        # 1. A new node: bounds follow from what is placed and delayed; at a dead end the frame is left.
        if entering:
            s.control[NODES] += 1
            if s.control[NODES] > s.control[LIMIT] or s.control[STOP] != 0:
                return STOPPED
            tail = propagate(p, s, begin, end, tail)
            if is_full(p, s, tail):
                return STOPPED
            chosen = -1 if tail < 0 else _choose(p, s, begin, end)
            if chosen < 0:
                if tail >= 0:
                    blame_delays(s, begin, end)
                tail = _leave(s, depth, tail if tail >= 0 else -1 - tail)
                entering, result = False, FAILED
                depth -= 1
                continue
            # 2. First branch: the chosen buffer rests.
            tail = _rest(p, s, depth, chosen, tail)
            result = FOUND
        # 3. What is left falls into components, each a frame of its own; when all are solved, so is this frame.
        if result == FOUND:
            size = _next_component(p, s, depth)
            if size == 0:
                entering = False
                depth -= 1
                continue
            depth += 1
            entering = _enter(s, depth, end, size, tail)
            if not entering:
                result = FAILED
                depth -= 1
            continue
        # 4. A component failed: the buffer rests no more. If that was not among the reasons, the frame fails too.
        tail = undo(s, tail, frames[depth, PLACED])
        s.last[CAUSES] = frames[depth, PLACED_CAUSES]
        _lift(p, s, begin, end)
        relevant = _cleared(s, depth)
        if frames[depth, FORCED] or not relevant:
            if relevant:
                blame_around(p, s, frames[depth, BUFFER])
            tail = _leave(s, depth, tail)
            depth -= 1
            continue
        # 5. Second branch: it is delayed, with its equals, and the frame is entered again.
        tail = _delay_kind(p, s, begin, end, frames[depth, BUFFER], tail)
        entering = True
    return result


@inner
def _rest(p: PackingProblem, s: State, depth: int, chosen: int, tail: int) -> int:
    """Place a frame's buffer. The trail's new length."""
    frames = s.frames
    frames[depth, PLACED], frames[depth, BUFFER], frames[depth, CURSOR] = tail, chosen, 0
    frames[depth, PLACED_CAUSES] = s.last[CAUSES]
    frames[depth, FORCED] = 1 if _fits_beneath(p, s, chosen) else 0
    return place(p, s, chosen, tail, depth)


@inner
def _lift(p: PackingProblem, s: State, begin: int, end: int) -> None:
    """Take back the placements below a frame, and its own."""
    for at in range(begin, end):
        i = s.work[at]
        if s.placed[i]:
            unplace(p, s, i)


@inner
def _enter(s: State, depth: int, begin: int, size: int, tail: int) -> bool:
    """Open the frame of a subproblem, unless it is known to fail."""
    frames, end = s.frames, begin + size
    frames[depth, BEGIN], frames[depth, COUNT] = begin, size
    frames[depth, ENTRY], frames[depth, ENTRY_CAUSES] = tail, s.last[CAUSES]
    slot, key = _signature(s, begin, end)
    frames[depth, SLOT], frames[depth, KEY] = slot, key
    if s.failed[slot] == key:
        blame_members(s, begin, end)
        return False
    return True


@inner
def _leave(s: State, depth: int, tail: int) -> int:
    """Undo a frame that failed, and remember it. The trail's new length."""
    s.failed[s.frames[depth, SLOT]] = s.frames[depth, KEY]
    s.last[CAUSES] = s.frames[depth, ENTRY_CAUSES]
    return undo(s, tail, s.frames[depth, ENTRY])


@inner
def _cleared(s: State, level: int) -> bool:
    """Take a level out of the dead end's reasons; whether it was there."""
    bit, word = int64(1) << (level & 63), int64(level >> 6)
    found = int64(s.causes[CONFLICT, word])
    s.causes[CONFLICT, word] = found & ~bit
    return found & bit != 0


@inner
def _signature(s: State, begin: int, end: int) -> tuple[int, int]:
    """What decides a subproblem's outcome, hashed twice: the place in the memory and the key stored there (not 0)."""
    slot, key = 0, 0
    for at in range(begin, end):
        i = s.work[at]
        state = 2 * s.offset[i] + s.delayed[i]
        slot += _mixed(state * 0x1F83D9ABFB41BD6B + i)
        key += _mixed(state * 0x2545F4914F6CDD1D + (i + 1) * 0x5851F42D4C957F2D)
    return slot & (MEMORY - 1), key | 1


@inner
def _mixed(value: int) -> int:
    """A 64-bit hash (multiply and shift, wrapping)."""
    value = (value ^ (value >> 29)) * 0x3C79AC492BA7B653
    value = (value ^ (value >> 32)) * 0x1C69B3F74AC4AE35
    return value ^ (value >> 27)


@inner
def _choose(p: PackingProblem, s: State, begin: int, end: int) -> int:
    """The buffer to branch on, one without an alternative first, or -1 when all are delayed."""
    best, start, stop = int64(-1), int64(len(p.load)), int64(0)
    for at in range(begin, end):
        i = s.work[at]
        start, stop = min(start, p.lower[p.first[i]]), max(stop, p.upper[p.first[i + 1] - 1])
        if s.delayed[i]:
            continue
        k = s.blocker[i]
        if (k == i or s.placed[k] or s.offset[k] >= s.offset[i] + p.size[i]) and _fits_beneath(p, s, i):
            return int64(i)
        if best < 0 or _rests_lower(s, i, best):
            best = int64(i)
    found = int64(-1)
    if best >= 0 and s.choice & LAST and start <= s.last[SECTION] < stop:
        found = _lowest_in(p, s, s.last[SECTION])
    if best >= 0 and s.choice & FEWEST and found < 0:
        found = _lowest_in(p, s, _scarcest(s, start, stop))
    return best if found < 0 else found


@inner
def _rests_lower(s: State, i: int, k: int) -> bool:
    low, high = int64(s.offset[i]), int64(s.offset[k])
    return low < high or (low == high and int64(s.rank[i]) < int64(s.rank[k]))


@inner
def _scarcest(s: State, begin: int, stop: int) -> int:
    """The section with the fewest buffers that can be its lowest, in proportion to the dead ends it caused."""
    section, least = int64(begin), np.inf
    for t in range(begin, stop):
        if s.floor[t] < NONE and s.options[t] < least * s.weight[t]:
            section, least = int64(t), s.options[t] / s.weight[t]
    return section


@inner
def _lowest_in(p: PackingProblem, s: State, section: int) -> int:
    """The buffer that rests lowest in a section, of those low enough to be its lowest; -1 when there is none."""
    best, most = int64(-1), p.capacity + p.padding - s.remaining[section]
    for at in range(p.alive_first[section], p.alive_first[section + 1]):
        i = int64(p.alive[at])
        free = not s.placed[i] and not s.delayed[i] and s.offset[i] <= most
        if free and (best < 0 or _rests_lower(s, i, best)):
            best = i
    return best


@inner
def _fits_beneath(p: PackingProblem, s: State, i: int) -> bool:
    near, placed, offset = p.near, s.placed, s.offset
    top = offset[i] + p.size[i]
    for at in range(p.near_first[i], p.near_first[i + 1]):
        k = near[at]
        if not placed[k] and offset[k] < top:
            s.blocker[i] = k
            return False
    return True


@inner
def _delay_kind(p: PackingProblem, s: State, begin: int, end: int, i: int, tail: int) -> int:
    """Buffer i does not rest now, nor one that is its equal, for the reasons of the dead end. The trail's new length."""
    why = cause_like(s, int64(CONFLICT))
    for at in range(begin, end):
        k = s.work[at]
        if p.kinds[k] == p.kinds[i] and not s.delayed[k]:
            tail = record(s, k, tail)
            s.delayed[k], s.delay[k] = True, why
    return tail


@inner
def _next_component(p: PackingProblem, s: State, depth: int) -> int:
    """Copy the next buffers of a frame that no cut separates (they are sorted by start) behind its own; their number.

    The cursor may pass the placed buffer only: siblings solved before lie left of it.
    """
    frames, work = s.frames, s.work
    target = frames[depth, BEGIN] + frames[depth, COUNT]
    at = frames[depth, BEGIN] + frames[depth, CURSOR]
    size, reach = 0, -1
    while at < target:
        i = work[at]
        if i != frames[depth, BUFFER]:
            if size and p.lower[p.first[i]] >= reach:
                break
            work[target + size] = i
            size += 1
            reach = max(reach, p.upper[p.first[i + 1] - 1])
        at += 1
    frames[depth, CURSOR] = at - frames[depth, BEGIN]
    return size
