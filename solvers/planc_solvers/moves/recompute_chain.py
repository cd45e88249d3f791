"""Recomputation of a value together with what it needs and is gone, compiled."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from planc.compiled.packed import Packed
from planc_solvers.evaluation.arrays import Arrays, Bytes8, Ints, SearchPlan
from planc_solvers.evaluation.workspace import FETCHED, GAPS, Workspace
from planc_solvers.jit import fill, inner
from planc_solvers.moves.edits import insert


class Chains(NamedTuple):
    """How chains of recomputations are drawn."""

    depth: int = 12
    """Most recomputations that one move inserts: what it inserts in vain takes moves to remove again."""
    again: float = 0.75
    """Chance that an input which is gone is recomputed too; else it must be fetched."""
    other_form: float = 0.5
    """Chance that a recomputation runs in a form drawn at random, and not in the first, which is the fastest."""


CHAINS = Chains()


@dataclass(frozen=True, eq=False)
class ChainRoom(Packed):
    """What one move needs: which values lie on the device, and the tasks of the chain."""

    alive: Bytes8
    tasks: Ints


def chain_room(a: Arrays) -> ChainRoom:
    """Room for the chains of the problem `a`."""
    return ChainRoom(np.zeros(a.size.size, np.uint8), np.zeros(2 * CHAINS.depth + 2, np.int64))


@inner
def _mark_alive(w: Workspace, position: int, alive: Bytes8) -> None:
    """Which values lie on the device across `position` in the current plan, idle or not."""
    gap_kind, gap_from, gap_to, gap_value = w.gap_kind, w.gap_from, w.gap_to, w.gap_value
    fill(alive, alive.size, 0)
    for g in range(w.tally[GAPS]):
        if gap_kind[g] != FETCHED and gap_from[g] <= position <= gap_to[g]:
            alive[gap_value[g]] = 1


@inner
def insert_chain(a: Arrays, s: SearchPlan, w: Workspace, room: ChainRoom, value: int, position: int) -> bool:
    """Recompute `value` before `position`, with the inputs that are gone there; False when it may not be."""
    _mark_alive(w, position, room.alive)
    count = _gather_chain(a, w, room, value, position)
    if count == 0 or s.length[0] + count >= s.seq.size:
        return False
    _insert_sorted(a, s, room.tasks, count, position)
    return True


@inner
def _gather_chain(a: Arrays, w: Workspace, room: ChainRoom, value: int, position: int) -> int:
    """Write the tasks to repeat for `value` into `room.tasks`; how many, 0 when one of them may not be repeated."""
    count, at, alive, todo = 1, 0, room.alive, room.tasks
    todo[0] = a.producer[value]
    while at < count:
        task = todo[at]
        if task < 0 or not a.recomputable[task]:
            return 0
        if a.deadline[task] < a.duration.size and w.first[a.deadline[task]] < position:
            return 0
        at += 1
        for k in range(a.read_ptr[task], a.read_ptr[task + 1]):
            u = a.reads[k]
            if alive[u] or a.producer[u] < 0:
                continue
            again = a.recomputable[a.producer[u]] and np.random.random() < CHAINS.again
            known = False
            for q in range(count):
                known = known or todo[q] == a.producer[u]
            if again and not known and count < CHAINS.depth:
                todo[count] = a.producer[u]
                count += 1
    return count


@inner
def _insert_sorted(a: Arrays, s: SearchPlan, tasks: Ints, count: int, position: int) -> None:
    """Insert tasks before `position` in task order, which is a valid order among them."""
    for i in range(count):
        low = i
        for j in range(i + 1, count):
            if tasks[j] < tasks[low]:
                low = j
        tasks[i], tasks[low] = tasks[low], tasks[i]
        insert(s, position + i, tasks[i])
        forms = a.form_ptr[tasks[i] + 1] - a.form_ptr[tasks[i]]
        s.choice[position + i] = np.random.randint(forms) if forms > 1 and np.random.random() < CHAINS.other_form else 0
