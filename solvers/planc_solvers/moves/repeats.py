"""Moves that recompute a value, or remove, move or replace one recomputation, compiled."""

from typing import NamedTuple

import numpy as np

from planc_solvers.evaluation.arrays import Arrays, SearchPlan
from planc_solvers.evaluation.workspace import FETCHED, GAPS, HOME, KEPT, REPEATS, Workspace
from planc_solvers.jit import inner
from planc_solvers.moves.edits import flip, remove, shift
from planc_solvers.moves.recompute_chain import ChainRoom, insert_chain
from planc_solvers.moves.repeat_runs import part_of_run
from planc_solvers.moves.targets import ANYWHERE, random_gap, steps_away


class RepeatMoves(NamedTuple):
    """Chances and distances of moves of single recomputations."""

    earlier: float = 0.25
    """Chance that a recomputation comes earlier than just before its use, where it may be cheaper to hold its inputs …"""
    most_earlier: int = 6
    """… by so many steps at most."""
    fetch_inputs: float = 0.3
    """Chance that a recomputation's inputs are fetched rather than kept for it …"""
    fetch_input: float = 0.5
    """… and then of each of them."""
    shift: float = 0.6
    """Chance that a recomputation shifts instead of giving its place to another."""
    input: float = 0.6
    """Chance that the one which takes its place makes an input of it, and not anything."""
    trade_here: float = 0.7
    """Chance that what is recomputed instead of a run lies idle across it."""


REPEAT = RepeatMoves()


@inner
def _fetch_inputs(a: Arrays, s: SearchPlan, position: int, chance: float) -> None:
    """Let the inputs of an inserted recomputation be fetched, each with that chance, rather than kept for it."""
    task = s.seq[position]
    for k in range(a.read_ptr[task], a.read_ptr[task + 1]):
        slot = k - a.read_ptr[task]
        if a.swappable[a.reads[k]] and np.random.random() < chance:
            s.fetch[position, slot >> 6] |= np.uint64(1) << np.uint64(slot & 63)


@inner
def recompute_gap(a: Arrays, s: SearchPlan, w: Workspace, room: ChainRoom, gap: int) -> int:
    """Recompute the gap's value before the later access instead of keeping or fetching it: the position, or -1."""
    if w.gap_kind[gap] == HOME:
        return -1
    if w.gap_kind[gap] == FETCHED:
        flip(s, w, gap)
    position = w.gap_to[gap]
    if np.random.random() < REPEAT.earlier:
        position -= np.random.randint(min(position - w.gap_from[gap], REPEAT.most_earlier) + 1)
    before = s.length[0]
    if not insert_chain(a, s, w, room, w.gap_value[gap], position):
        return -1
    if np.random.random() < REPEAT.fetch_inputs:
        for p in range(position, position + s.length[0] - before):
            _fetch_inputs(a, s, p, REPEAT.fetch_input)
    return int(position)


@inner
def drop_repeat(a: Arrays, s: SearchPlan, w: Workspace, exchange: bool) -> bool:
    """Remove a recomputation; on `exchange` fetch what it made instead, at its next use."""
    if w.tally[REPEATS] == 0:
        return False
    position = w.repeats[np.random.randint(w.tally[REPEATS])]
    if exchange:
        task, gap_from, gap_value, producer = s.seq[position], w.gap_from, w.gap_value, a.producer
        for g in range(w.tally[GAPS]):
            if gap_from[g] == position + 1 and producer[gap_value[g]] == task and w.gap_kind[g] == KEPT:
                flip(s, w, g)
    remove(s, position)
    return True


@inner
def trade_run(a: Arrays, s: SearchPlan, w: Workspace, room: ChainRoom) -> bool:
    """Recompute one value instead of others: remove recomputations side by side and recompute the value of a gap."""
    if w.tally[REPEATS] == 0:
        return False
    begin, end = part_of_run(w)
    gap = random_gap(w, begin if np.random.random() < REPEAT.trade_here else ANYWHERE, KEPT)
    if gap < 0:
        return False
    before, position = s.length[0], recompute_gap(a, s, w, room, gap)
    if position < 0 or begin <= position <= end:
        return False
    moved = s.length[0] - before if position < begin else 0
    for _ in range(begin, end):
        remove(s, begin + moved)
    return True


@inner
def move_repeat(a: Arrays, s: SearchPlan, w: Workspace) -> bool:
    """Shift a recomputation to a nearby position, or put another task in its place."""
    if w.tally[REPEATS] == 0:
        return False
    position = w.repeats[np.random.randint(w.tally[REPEATS])]
    task = s.seq[position]
    if np.random.random() < REPEAT.shift:
        target = position + steps_away() * (1 if np.random.random() < 0.5 else -1)
        target = max(w.first[task] + 1, min(s.length[0] - 1, target))
        shift(s, position, target)
        return True
    other = np.random.randint(a.duration.size)
    fan = a.read_ptr[task + 1] - a.read_ptr[task]
    if fan > 0 and np.random.random() < REPEAT.input:
        other = a.producer[a.reads[a.read_ptr[task] + np.random.randint(fan)]]
    if other < 0 or not a.recomputable[other] or w.first[other] >= position:
        return False
    s.seq[position] = other
    s.choice[position] = 0
    for q in range(s.fetch.shape[1]):
        s.fetch[position, q] = np.uint64(0)
    return True
