"""Changes of single steps and decisions of a plan, compiled: what moves of the search are made of."""

import numpy as np

from planc_solvers.evaluation.arrays import SearchPlan
from planc_solvers.evaluation.workspace import HOME, Workspace
from planc_solvers.jit import inner


@inner
def insert(s: SearchPlan, position: int, task: int) -> None:
    """Make `task`, in its first form and fetching nothing, the step at `position`."""
    length, seq, choice, fetch, words = s.length[0], s.seq, s.choice, s.fetch, s.fetch.shape[1]
    for p in range(length, position, -1):
        seq[p] = seq[p - 1]
        choice[p] = choice[p - 1]
        for q in range(words):
            fetch[p, q] = fetch[p - 1, q]
    seq[position] = task
    choice[position] = 0
    for q in range(words):
        fetch[position, q] = np.uint64(0)
    s.length[0] = length + 1


@inner
def remove(s: SearchPlan, position: int) -> None:
    """Take the step at `position` out of the plan."""
    seq, choice, fetch, words = s.seq, s.choice, s.fetch, s.fetch.shape[1]
    for p in range(position, s.length[0] - 1):
        seq[p] = seq[p + 1]
        choice[p] = choice[p + 1]
        for q in range(words):
            fetch[p, q] = fetch[p + 1, q]
    s.length[0] -= 1


@inner
def flip(s: SearchPlan, w: Workspace, gap: int) -> None:
    """Toggle the decision on a gap: kept or fetched, home or resident."""
    if w.gap_kind[gap] == HOME:
        s.home[w.gap_value[gap]] ^= np.uint8(1)
    else:
        slot = w.gap_slot[gap]
        s.fetch[w.gap_to[gap], slot >> 6] ^= np.uint64(1) << np.uint64(slot & 63)


@inner
def shift(s: SearchPlan, source: int, target: int) -> None:
    """Move a step to another position, in its form, fetching nothing."""
    task, choice = s.seq[source], s.choice[source]
    remove(s, source)
    insert(s, target, task)
    s.choice[target] = choice
