"""Reasons: which placements, by their level in the search, a bound, a delay or a dead end rests on.

Conflict-directed backjumping (Prosser, Computational Intelligence 1993): a level that a dead end does not rest on has
no other value worth trying. What a level decides is that no buffer unplaced at the time lies beneath the one that it
places; so its part in a reason holds for every packing in which that is so, whatever else is placed where.
"""

from planc.compiled.jit import inner, int64
from planc.packing.exact.state import CAUSES, CONFLICT, EVERYTHING, EXCESS, NOTHING, PackingProblem, State


@inner
def cause_like(s: State, like: int) -> int:
    """A new cause with the levels of another; that of all levels when there is no room."""
    made, causes = int64(s.last[CAUSES]), s.causes
    if made >= len(causes):
        return int64(EVERYTHING)
    s.last[CAUSES] += 1
    for w in range(causes.shape[1]):
        causes[made, w] = causes[like, w]
    return made


@inner
def clear_conflict(s: State) -> None:
    """Begin a new dead end."""
    for w in range(s.causes.shape[1]):
        s.causes[CONFLICT, w] = 0


@inner
def blame(s: State, why: int, to: int) -> None:
    """Add the levels of `why` to the cause `to`."""
    causes = s.causes
    for w in range(causes.shape[1]):
        causes[to, w] |= causes[why, w]


@inner
def blame_delays(s: State, begin: int, end: int) -> None:
    """All are delayed: each lies on another one, which cannot be."""
    clear_conflict(s)
    for at in range(begin, end):
        i = s.work[at]
        blame(s, s.delay[i], int64(CONFLICT))


@inner
def blame_members(s: State, begin: int, end: int) -> None:
    """A subproblem known to fail rests on all its bounds and delays."""
    clear_conflict(s)
    for at in range(begin, end):
        i = s.work[at]
        blame(s, s.why[i], int64(CONFLICT))
        if s.delayed[i]:
            blame(s, s.delay[i], int64(CONFLICT))


@inner
def blame_around(p: PackingProblem, s: State, i: int) -> None:
    """A buffer was placed without alternative because of the bounds of those that it meets."""
    blame(s, s.why[i], int64(CONFLICT))
    for at in range(p.near_first[i], p.near_first[i + 1]):
        k = int64(p.near[at])
        if not s.placed[k]:
            blame(s, s.why[k], int64(CONFLICT))


@inner
def cause_of_delay(p: PackingProblem, s: State, i: int, bound: int) -> int:
    """Why none of the buffers, one of which lies beneath the delayed buffer i, ends below `bound`, before alignment."""
    made = cause_like(s, s.delay[i])
    if made != EVERYTHING:
        for at in range(p.near_first[i], p.near_first[i + 1]):
            k = int64(p.near[at])
            if not s.placed[k] and p.size[k] < bound:
                blame(s, s.why[k], made)
    return made


@inner
def blame_section(p: PackingProblem, s: State, section: int) -> None:
    """A part of the stack of a section's unplaced buffers that is too high on its own: from some bound on, less what
    the excess allows to leave out."""
    clear_conflict(s)
    start, excess, room = int64(0), int64(0), p.capacity + p.padding
    begin, end = p.alive_first[section], p.alive_first[section + 1]
    for at in range(begin, end):
        k = int64(p.alive[at])
        if not s.placed[k] and (excess == 0 or s.offset[k] > start):
            sizes = _sizes_from(p, s, section, s.offset[k])
            if s.offset[k] + sizes > room:
                # At most the sizes, so that one buffer at least stays.
                start, excess = s.offset[k], min(s.offset[k] + sizes - room, sizes)
    for at in range(begin, end):
        k = int64(p.alive[at])
        if not s.placed[k] and s.offset[k] >= start and s.why[k] != NOTHING:
            if p.size[k] < excess:
                excess -= p.size[k]
            else:
                blame(s, s.why[k], int64(CONFLICT))
    s.control[EXCESS] = min(s.control[EXCESS], excess)


@inner
def _sizes_from(p: PackingProblem, s: State, section: int, start: int) -> int:
    """Sizes of the section's unplaced buffers whose bound is not below `start`."""
    sizes = int64(0)
    for at in range(p.alive_first[section], p.alive_first[section + 1]):
        k = int64(p.alive[at])
        if not s.placed[k] and s.offset[k] >= start:
            sizes += p.size[k]
    return sizes
