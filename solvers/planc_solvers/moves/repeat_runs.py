"""Moves on recomputations that lie side by side in a plan, compiled: a chain goes, or shifts, as one.

They serve plans without swaps, where single steps of a chain cannot go one by one.
"""

from typing import NamedTuple

import numpy as np

from planc_solvers.evaluation.arrays import SearchPlan
from planc_solvers.evaluation.workspace import REPEATS, Workspace
from planc_solvers.jit import inner
from planc_solvers.moves.edits import remove, shift
from planc_solvers.moves.targets import steps_away


class RunMoves(NamedTuple):
    """Chances of moves of several recomputations."""

    whole: float = 0.5
    """Chance that all that lie side by side are taken, else a random part of them: with whole runs alone a chain that is
    half of use would stay or go."""
    earlier: float = 0.5
    """Chance that a run shifts towards the step's start, else towards its end."""


RUNS = RunMoves()


@inner
def part_of_run(w: Workspace) -> tuple[int, int]:
    """Positions [begin, end) of all recomputations side by side with a random one, or half of the time of some of them.

    There must be a recomputation.
    """
    repeats, low = w.repeats, np.random.randint(w.tally[REPEATS])
    high = low
    while low > 0 and repeats[low - 1] == repeats[low] - 1:
        low -= 1
    while high + 1 < w.tally[REPEATS] and repeats[high + 1] == repeats[high] + 1:
        high += 1
    begin, end = int(repeats[low]), int(repeats[high]) + 1
    if end - begin == 1 or np.random.random() < RUNS.whole:
        return begin, end
    begin += np.random.randint(end - begin)
    return begin, begin + 1 + np.random.randint(end - begin)


@inner
def drop_run(s: SearchPlan, w: Workspace) -> bool:
    """Remove recomputations side by side."""
    if w.tally[REPEATS] == 0:
        return False
    begin, end = part_of_run(w)
    for _ in range(begin, end):
        remove(s, begin)
    return True


@inner
def shift_run(s: SearchPlan, w: Workspace) -> bool:
    """Shift recomputations side by side together, earlier, though none before its first execution, or later."""
    if w.tally[REPEATS] == 0:
        return False
    begin, end = part_of_run(w)
    earliest = 0
    for p in range(begin, end):
        earliest = max(earliest, w.first[s.seq[p]] + 1)
    reach = steps_away()
    if np.random.random() < RUNS.earlier:
        target = max(earliest, begin - reach)
        for p in range(end - begin):
            shift(s, begin + p, target + p)
    else:
        target = min(s.length[0] - 1, end - 1 + reach)
        for p in range(end - begin):
            shift(s, end - 1 - p, target - p)
    return True
