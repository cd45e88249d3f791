"""Exact search for a packing within a capacity: depth-first, on the skyline, compiled.

A buffer *rests* when no unplaced buffer will go beneath it; its offset is then the top of what is placed under it.
Every packing can be pushed down until each buffer rests on another one or on the ground, so it suffices to branch, for
one unplaced buffer, on: it rests now, below all unplaced buffers that it meets in time; or one of those goes beneath
it (it is *delayed*). The frame is MiniMalloc's (Moffitt, ASPLOS 2023: section floors and totals, dominance,
decomposition at empty cuts); the delayed branch replaces its canonical order and gives stronger bounds:

- a delayed buffer lies at least at the lowest top among the unplaced buffers that it meets;
- a section's floor is the lowest bound of the unplaced buffers in it; floor + their sizes must fit the capacity;
- a buffer whose resting would waste more than a section can spare is delayed without search;
- a buffer that fits beneath everything it meets rests without an alternative;
- buffers of equal size, lifetime and alignment are delayed together.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from planc.placement.packing_jit import compiled, inner, int64
from planc.placement.packing_model import Array, Model

FAILED, FOUND, STOPPED = 0, 1, 2
# Bounds of delayed buffers may push each other up in steps of the smallest size; a few rounds give most of it.
ROUNDS = 8
# Entries of the memory of failed subproblems, a power of two.
MEMORY = 1 << 18
# Which buffer to branch on: the one that rests lowest, or the one that rests on the section with the least to spare.
LOWEST, TIGHTEST = 0, 1
NONE = 1 << 62
# Fields of the control array: nodes visited; their limit; set to stop, by any thread; and the least number of bytes
# that some pruning missed the capacity by, so that a failed search also disproves every capacity below that excess.
NODES, LIMIT, STOP, EXCESS = range(4)
# Fields of a frame: its buffers are work[BEGIN : BEGIN + COUNT]; trail lengths before it and before its placement;
# the buffer placed, whether it had no alternative, and how far its components are solved; its place in the memory of
# failures.
BEGIN, COUNT, ENTRY, PLACED, BUFFER, FORCED, CURSOR, SLOT, KEY = range(9)


class Problem(NamedTuple):
    """What stays fixed: buffers (see Model), the buffers each one meets in time, and the capacity in bytes.

    `kind` is equal for interchangeable buffers. A section's padded sizes may exceed the capacity by `padding`, the
    largest of all, since the padding of the buffer on top need not fit.
    """

    top: Array
    size: Array
    alignment: Array
    kind: Array
    first: Array
    lower: Array
    upper: Array
    near_first: Array
    near: npt.NDArray[np.int32]
    load: Array
    padding: int
    capacity: int


class State(NamedTuple):
    """What changes: bound of every offset (its value once placed), flags, what is left to place in every section."""

    offset: Array
    delayed: npt.NDArray[np.bool_]
    placed: npt.NDArray[np.bool_]
    remaining: Array
    floor: Array
    work: Array
    trail: Array
    frames: Array
    failed: Array


def build_problem(model: Model) -> Problem:
    """The search problem of a model, with capacity 0."""
    spans = [tuple(zip(model.lower[a:b].tolist(), model.upper[a:b].tolist(), strict=True))
             for a, b in zip(model.first[:-1], model.first[1:], strict=True)]  # fmt: skip
    kinds: dict[object, int] = {}
    keys = zip(spans, model.top.tolist(), model.alignment.tolist(), strict=True)
    kind = np.array([kinds.setdefault(key, len(kinds)) for key in keys], dtype=np.int64)
    meets = model.meetings()
    near_first = np.concatenate([[0], np.cumsum(meets.sum(axis=1))]).astype(np.int64)
    return Problem(
        model.top, model.size, model.alignment, kind, model.first, model.lower, model.upper,
        near_first, np.nonzero(meets)[1].astype(np.int32), model.load(), int((model.size - model.top).max(initial=0)), 0,
    )  # fmt: skip


def search(problem: Problem, rank: Array, choice: int, control: Array, weight: npt.NDArray[np.float64]) -> Array | int:
    """Offsets within the capacity, or FAILED when there are none (a proof), or STOPPED.

    Ties between buffers go to the lowest `rank`. `control`: see NODES … EXCESS. `weight` counts, per section, the dead
    ends it caused.
    """
    count, sections = len(problem.size), len(problem.load)
    state = State(
        np.zeros(count, np.int64), np.zeros(count, np.bool_), np.zeros(count, np.bool_),
        problem.load.copy(), np.zeros(sections, np.int64), np.empty((count + 1) * (count + 2) // 2, np.int64),
        # Along one path a pair of buffers enters the trail at most once by placing; the rest is for delays.
        np.empty((len(problem.near) + 64 * count + 1024, 3), np.int64), np.zeros((count + 2, 9), np.int64),
        np.zeros(MEMORY, np.int64),
    )  # fmt: skip
    outcome = _search(problem, state, rank, choice, control, weight)
    return state.offset if outcome == FOUND else outcome


@compiled
def _search(p: Problem, s: State, rank: Array, choice: int, control: Array, weight: npt.NDArray[np.float64]) -> int:
    count = len(p.size)
    for i in range(count):
        s.work[i] = i
    depth, tail = 0, int64(0)
    s.frames[0, BEGIN], s.frames[0, COUNT] = 0, count
    entering, result = True, FOUND
    while depth >= 0:
        frame = s.frames[depth]
        members = s.work[frame[BEGIN] : frame[BEGIN] + frame[COUNT]]
        if entering:
            control[NODES] += 1
            if control[NODES] > control[LIMIT] or control[STOP] != 0:
                return STOPPED
            tail = _propagate(p, s, members, tail, control, weight)
            if tail >= len(s.trail) - 2 * count:
                return STOPPED
            chosen = -1 if tail < 0 else _choose(p, s, members, rank, choice)
            if chosen < 0:
                tail = _undo(s, tail if tail >= 0 else -1 - tail, frame[ENTRY])
                entering, result = False, FAILED
                s.failed[frame[SLOT]] = frame[KEY]
                depth -= 1
                continue
            frame[PLACED], frame[BUFFER], frame[CURSOR] = tail, chosen, 0
            frame[FORCED] = 1 if _fits_beneath(p, s, chosen) else 0
            tail = _place(p, s, chosen, tail)
            result = FOUND
        if result == FOUND:
            size = _next_component(p, s, frame, members)
            if size == 0:
                entering = False
                depth -= 1
                continue
            depth += 1
            child = s.frames[depth]
            child[BEGIN], child[COUNT], child[ENTRY] = frame[BEGIN] + frame[COUNT], size, tail
            child[SLOT], child[KEY] = _signature(s, s.work[child[BEGIN] : child[BEGIN] + size])
            entering = s.failed[child[SLOT]] != child[KEY]
            if not entering:
                result = FAILED
                depth -= 1
            continue
        tail = _undo(s, tail, frame[PLACED])
        for i in members:
            if s.placed[i]:
                _unplace(p, s, i)
        if frame[FORCED]:
            tail = _undo(s, tail, frame[ENTRY])
            s.failed[frame[SLOT]] = frame[KEY]
            depth -= 1
            continue
        tail = _delay_kind(p, s, members, frame[BUFFER], tail)
        entering = True
    return result


@inner
def _signature(s: State, members: Array) -> tuple[int, int]:
    """What decides a subproblem's outcome, hashed twice: the place in the memory and the key stored there (not 0)."""
    slot, key = 0, 0
    for i in members:
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
def _propagate(p: Problem, s: State, members: Array, tail: int, control: Array, weight: npt.NDArray[np.float64]) -> int:
    """Raise bounds until nothing changes, or ROUNDS times. The trail's new length n, or -1 - n at a dead end."""
    offset, floor, remaining = s.offset, s.floor, s.remaining
    top, first, lower, upper = p.top, p.first, p.lower, p.upper
    begin, stop = len(floor), 0
    for i in members:
        begin, stop = min(begin, lower[first[i]]), max(stop, upper[first[i + 1] - 1])
    limit = len(s.trail) - 2 * len(p.size)
    room = p.capacity + p.padding
    for _ in range(ROUNDS):
        if tail >= limit:
            break
        for section in range(begin, stop):
            floor[section] = NONE
        for i in members:
            bound = offset[i]
            if bound + top[i] > p.capacity:
                control[EXCESS] = min(control[EXCESS], bound + top[i] - p.capacity)
                return -1 - tail
            for r in range(first[i], first[i + 1]):
                for section in range(lower[r], upper[r]):
                    floor[section] = min(floor[section], bound)
        for section in range(begin, stop):
            if floor[section] < NONE and floor[section] + remaining[section] > room:
                control[EXCESS] = min(control[EXCESS], floor[section] + remaining[section] - room)
                weight[section] += 1.0
                return -1 - tail
        raised = False
        for i in members:
            if not s.delayed[i]:
                excess = offset[i] + _most_remaining(p, s, i) - room
                if excess > 0:
                    control[EXCESS] = min(control[EXCESS], excess)
                    tail = _record(s, i, tail)
                    s.delayed[i] = True
            if s.delayed[i]:
                bound = _lowest_top(p, s, i)
                if bound == NONE:
                    return -1 - tail
                if bound > offset[i]:
                    tail = _record(s, i, tail)
                    offset[i] = bound
                    raised = True
        if not raised:
            break
    return tail


@inner
def _most_remaining(p: Problem, s: State, i: int) -> int:
    most, remaining = 0, s.remaining
    for r in range(p.first[i], p.first[i + 1]):
        for section in range(p.lower[r], p.upper[r]):
            most = max(most, remaining[section])
    return most


@inner
def _lowest_top(p: Problem, s: State, i: int) -> int:
    """Where a delayed buffer can be at the lowest: on an unplaced buffer that it meets; NONE when there is none."""
    lowest, near = int64(NONE), p.near
    placed, offset, size = s.placed, s.offset, p.size
    for at in range(p.near_first[i], p.near_first[i + 1]):
        k = near[at]
        if not placed[k]:
            lowest = min(lowest, offset[k] + size[k])
    return lowest if lowest == NONE else _aligned(lowest, p.alignment[i])


@inner
def _choose(p: Problem, s: State, members: Array, rank: Array, choice: int) -> int:
    """The buffer to branch on, or -1 when all are delayed."""
    best, best_spare = -1, NONE
    for i in members:
        if s.delayed[i]:
            continue
        spare = _spare(p, s, i) if choice == TIGHTEST else 0
        if (
            best < 0
            or spare < best_spare
            or (
                spare == best_spare
                and (s.offset[i] < s.offset[best] or (s.offset[i] == s.offset[best] and rank[i] < rank[best]))
            )
        ):
            best, best_spare = i, spare
    return best


@inner
def _spare(p: Problem, s: State, i: int) -> int:
    """Bytes to spare (up to a constant) in the tightest section whose floor is the buffer's own bound."""
    spare, floor, remaining, bound = NONE, s.floor, s.remaining, s.offset[i]
    for r in range(p.first[i], p.first[i + 1]):
        for section in range(p.lower[r], p.upper[r]):
            if floor[section] == bound:
                spare = min(spare, p.capacity - bound - remaining[section])
    return spare


@inner
def _fits_beneath(p: Problem, s: State, i: int) -> bool:
    near, placed, offset = p.near, s.placed, s.offset
    top = offset[i] + p.size[i]
    for at in range(p.near_first[i], p.near_first[i + 1]):
        k = near[at]
        if not placed[k] and offset[k] < top:
            return False
    return True


@inner
def _place(p: Problem, s: State, i: int, tail: int) -> int:
    s.placed[i] = True
    _add_remaining(p, s, i, -p.size[i])
    near, placed, offset, delayed, alignment = p.near, s.placed, s.offset, s.delayed, p.alignment
    top = offset[i] + p.size[i]
    for at in range(p.near_first[i], p.near_first[i + 1]):
        k = int64(near[at])
        if not placed[k] and (delayed[k] or offset[k] < top):
            tail = _record(s, k, tail)
            offset[k] = max(offset[k], _aligned(top, alignment[k]))
            delayed[k] = False
    return tail


@inner
def _unplace(p: Problem, s: State, i: int) -> None:
    s.placed[i] = False
    _add_remaining(p, s, i, p.size[i])


@inner
def _add_remaining(p: Problem, s: State, i: int, change: int) -> None:
    remaining = s.remaining
    for r in range(p.first[i], p.first[i + 1]):
        for section in range(p.lower[r], p.upper[r]):
            remaining[section] += change


@inner
def _delay_kind(p: Problem, s: State, members: Array, i: int, tail: int) -> int:
    for k in members:
        if p.kind[k] == p.kind[i] and not s.delayed[k]:
            tail = _record(s, k, tail)
            s.delayed[k] = True
    return tail


@inner
def _next_component(p: Problem, s: State, frame: Array, members: Array) -> int:
    """Copy the next buffers that no cut separates (members are sorted by start) behind the frame's own; their number.

    The cursor may pass the placed buffer only: siblings solved before lie left of it.
    """
    at = frame[CURSOR]
    target = frame[BEGIN] + frame[COUNT]
    size, reach = 0, -1
    while at < len(members):
        i = members[at]
        if i != frame[BUFFER]:
            if size and p.lower[p.first[i]] >= reach:
                break
            s.work[target + size] = i
            size += 1
            reach = max(reach, p.upper[p.first[i + 1] - 1])
        at += 1
    frame[CURSOR] = at
    return size


@inner
def _record(s: State, i: int, tail: int) -> int:
    s.trail[tail, 0], s.trail[tail, 1], s.trail[tail, 2] = i, s.offset[i], s.delayed[i]
    return tail + 1


@inner
def _undo(s: State, tail: int, to: int) -> int:
    while tail > to:
        tail -= 1
        i = s.trail[tail, 0]
        s.offset[i], s.delayed[i] = s.trail[tail, 1], s.trail[tail, 2] != 0
    return tail


@inner
def _aligned(offset: int, alignment: int) -> int:
    return (offset + alignment - 1) // alignment * alignment
