"""The arrays of the exact search: what stays fixed, and what changes along a path.

Fields of one kind are separate arrays, as the compiled functions read them most simply. They get each of the two objects
as one pointer.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from planc.compiled.packed import Packed
from planc.packing.model import Array, Model

Flags = npt.NDArray[np.bool_]
Weights = npt.NDArray[np.float64]
Near = npt.NDArray[np.int32]

MEMORY = 1 << 18
"""Entries of the memory of failed subproblems, a power of two."""

NONE = 1 << 62
"""No height, no offset: more than any."""

NODES, LIMIT, STOP, EXCESS = range(4)
"""Slots of the control array: nodes visited; their limit; set to stop, by any thread; and the least number of bytes that
some pruning missed the capacity by, so that a failed search also disproves every capacity below that excess."""

BEGIN, COUNT, ENTRY, PLACED, BUFFER, FORCED, CURSOR, SLOT, KEY, ENTRY_CAUSES, PLACED_CAUSES = range(11)
"""Slots of a frame: its buffers are work[BEGIN : BEGIN + COUNT]; the lengths of trail and causes before it and before its
placement; the buffer placed, whether it had no alternative, and how far its components are solved; its place in the
memory of failures."""

FRAME = 11
"""Slots of a frame in all."""

SECTION, CAUSES = range(2)
"""Slots of `State.last`: the section of the last dead end, and the number of causes in use."""

NOTHING, EVERYTHING, CONFLICT = range(3)
"""Causes that always exist: no level, all levels, and those of the dead end at hand."""

_CAUSE_WORDS = 1 << 22
"""All causes together take at most so many 64-bit words."""


@dataclass(frozen=True, eq=False)
class PackingProblem(Packed):
    """What stays fixed: buffers (see Model), and the capacity in bytes.

    `near[near_first[i] : near_first[i + 1]]` are the buffers that buffer i meets in time, `alive[alive_first[t] :
    alive_first[t + 1]]` those of section t. `kinds` is equal for interchangeable buffers. A section's padded sizes may
    exceed the capacity by `padding`, the largest of all, since the padding of the buffer on top need not fit.
    """

    top: Array
    size: Array
    alignment: Array
    kinds: Array
    first: Array
    lower: Array
    upper: Array
    near_first: Array
    near: Near
    alive_first: Array
    alive: Near
    load: Array
    padding: int
    capacity: int


@dataclass(frozen=True, eq=False)
class State(Packed):
    """What changes, and what a run is given: its branching rule (`choice`); the `rank` of every buffer, which breaks ties;
    `control`, see NODES … EXCESS; per section the dead ends it caused (`weight`); and the memory of subproblems that
    `failed`, also in earlier runs.

    Per buffer: a lower bound of its `offset` (the offset itself once placed) and `why`; whether it is delayed and `delay`,
    why; whether it is placed; whether it is to be looked at again (`fresh`); and an unplaced
    buffer that it may lie on (`support`) and one that may lie partly beneath it (`blocker`), found last and checked
    before use. Reasons are positions in `causes`, sets of levels as bits.

    Per section: sizes `remaining` to be placed; the lowest bound of these buffers (`floor`), how high they `reach` at
    least, and how many of them may be the lowest (`options`); all three older and so weaker where `stale`, then also in
    `queue`, whose last entry is its length. `ends` is room to sort in.
    """

    choice: int
    rank: Array
    control: Array
    weight: Weights
    failed: Array
    offset: Array
    why: Array
    delayed: Flags
    delay: Array
    placed: Flags
    fresh: Flags
    support: Array
    blocker: Array
    remaining: Array
    floor: Array
    reach: Array
    options: Array
    stale: Flags
    queue: Array
    ends: Array
    work: Array
    trail: Array
    frames: Array
    causes: Array
    last: Array


def build_problem(model: Model) -> PackingProblem:
    """The search problem of a model, with capacity 0."""
    spans = [tuple(zip(model.lower[a:b].tolist(), model.upper[a:b].tolist(), strict=True))
             for a, b in zip(model.first[:-1], model.first[1:], strict=True)]  # fmt: skip
    kinds: dict[object, int] = {}
    keys = zip(spans, model.top.tolist(), model.alignment.tolist(), strict=True)
    kind = np.array([kinds.setdefault(key, len(kinds)) for key in keys], dtype=np.int64)
    meets = model.meetings()
    near_first = np.concatenate([[0], np.cumsum(meets.sum(axis=1))]).astype(np.int64)
    alive_first, alive = _alive(model)
    return PackingProblem(
        model.top, model.size, model.alignment, kind, model.first, model.lower, model.upper,
        near_first, np.nonzero(meets)[1].astype(np.int32), alive_first, alive, model.load(),
        int((model.size - model.top).max(initial=0)), 0,
    )  # fmt: skip


def _alive(model: Model) -> tuple[Array, Near]:
    """The buffers of every section, one section after the other, and where each begins."""
    widths = model.upper - model.lower
    owner = np.repeat(np.repeat(np.arange(model.count), np.diff(model.first)), widths)
    section = np.repeat(model.lower - np.cumsum(widths) + widths, widths) + np.arange(widths.sum())
    order = np.argsort(section, kind="stable")
    first = np.searchsorted(section[order], np.arange(model.sections + 1)).astype(np.int64)
    return first, owner[order].astype(np.int32)


def new_memory() -> Array:
    """Room for failed subproblems."""
    return np.zeros(MEMORY, np.int64)


def new_state(
    problem: PackingProblem, rank: Array, choice: int, control: Array, weight: Weights, memory: Array
) -> State:
    """Nothing placed yet, everything to be looked at."""
    count, sections = len(problem.size), len(problem.load)
    # Along one path a pair of buffers enters the trail at most once by placing; the rest is for delays and sections.
    trail = len(problem.near) + 64 * count + 1024 + min(count * sections, 1 << 20)
    words = count // 64 + 1
    causes = np.zeros((min(64 * count + 64, _CAUSE_WORDS // words), words), np.int64)
    causes[EVERYTHING] = -1
    return State(
        choice=choice, rank=rank, control=control, weight=weight, failed=memory,
        offset=np.zeros(count, np.int64), why=np.full(count, NOTHING), delayed=np.zeros(count, np.bool_),
        delay=np.full(count, NOTHING), placed=np.zeros(count, np.bool_),
        fresh=np.ones(count, np.bool_), support=np.arange(count), blocker=np.arange(count),
        remaining=problem.load.copy(), floor=np.zeros(sections, np.int64), reach=np.zeros(sections, np.int64),
        options=np.zeros(sections, np.int64), stale=np.ones(sections, np.bool_),
        queue=np.append(np.arange(sections), sections), ends=np.zeros((2, count), np.int64),
        work=np.empty((count + 1) * (count + 2) // 2, np.int64), trail=np.empty((trail, 5), np.int64),
        frames=np.zeros((count + 2, FRAME), np.int64), causes=causes, last=np.array([-1, CONFLICT + 1]),
    )  # fmt: skip
