"""Where a move of the search looks for something to change, compiled: mostly where memory is short."""

from typing import NamedTuple

import numpy as np

from planc_solvers.evaluation.arrays import Arrays, SearchPlan
from planc_solvers.evaluation.workspace import EXCESS, GAPS, Workspace
from planc_solvers.jit import inner


class Look(NamedTuple):
    """How long a move looks for its target."""

    draws: int = 40
    """Random draws before a move gives up looking for its gap."""
    trials_over: int = 60
    """Random steps looked at for one that is over the budget, where the plan is."""
    trials_within: int = 4
    """Random steps of which the fullest is taken, where the plan fits."""
    neighbourhood: int = 10
    """Most steps between the fullest of a few and the one that is chosen near it."""


LOOK = Look()


class Reach(NamedTuple):
    """By how many steps recomputations shift."""

    near: float = 0.7
    """Chance that it is fewer than `near_steps`, which changes little else; else it is fewer than `far_steps`."""
    near_steps: int = 5
    far_steps: int = 40


REACH = Reach()

ANY_KIND, ANYWHERE = -1, -1


@inner
def steps_away() -> int:
    """A random number of steps, mostly small."""
    return np.random.randint(1, REACH.near_steps if np.random.random() < REACH.near else REACH.far_steps)


@inner
def focus_position(a: Arrays, s: SearchPlan, w: Workspace) -> int:
    """A position over the budget when there is one, else the fullest of a few."""
    length, memory, budget, over = s.length[0], w.memory, a.budget, w.total[EXCESS] > 0
    best = np.random.randint(length)
    for _ in range(LOOK.trials_over if over else LOOK.trials_within):
        p = np.random.randint(length)
        if over and memory[p] > budget:
            return int(p)
        if memory[p] > memory[best]:
            best = p
    return int(best)


@inner
def random_gap(w: Workspace, position: int, kind: int) -> int:
    """A random gap of that kind (or `ANY_KIND`) over the position (or `ANYWHERE`); -1 when none is found."""
    gaps, gap_kind, gap_from, gap_to = w.tally[GAPS], w.gap_kind, w.gap_from, w.gap_to
    if gaps == 0:
        return -1
    for _ in range(LOOK.draws):
        g = np.random.randint(gaps)
        if kind >= 0 and gap_kind[g] != kind:
            continue
        if position < 0 or gap_from[g] <= position < gap_to[g]:
            return int(g)
    return -1


@inner
def step_near_full(w: Workspace, length: int) -> int:
    """A random step; half of the time one that lies near the fullest of a few."""
    best = np.random.randint(length)
    if np.random.random() < 0.5:
        return int(best)
    for _ in range(8):
        p = np.random.randint(length)
        if w.memory[p] > w.memory[best]:
            best = p
    return int(max(0, min(length - 1, best + np.random.randint(-LOOK.neighbourhood, LOOK.neighbourhood + 1))))
