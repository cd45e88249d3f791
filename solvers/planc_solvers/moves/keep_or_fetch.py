"""Moves that change what is kept, fetched or at home, compiled."""

from typing import NamedTuple

import numpy as np

from planc_solvers.evaluation.arrays import Arrays, SearchPlan
from planc_solvers.evaluation.workspace import EXCESS, GAPS, KEPT, Workspace
from planc_solvers.jit import inner
from planc_solvers.moves.edits import flip
from planc_solvers.moves.targets import ANY_KIND, ANYWHERE, focus_position, random_gap


class FlipMoves(NamedTuple):
    """Chances and distances of moves that change what is fetched."""

    at_focus: float = 0.4
    """Part of the moves that look where memory is short although the plan fits."""
    run: float = 0.15
    """Up to this draw a run of alike gaps changes together: one by one, each would first make the plan worse, …"""
    pair: float = 0.3
    """… up to this one two gaps anywhere, …"""
    near_pair: float = 0.6
    """… up to this one two near each other; above, one gap."""
    near_gaps: int = 12
    """Most gaps between two that change together."""
    run_gaps: int = 8
    """A run has fewer gaps than this, …"""
    run_gaps_of_many: int = 60
    """… in a problem of `many_tasks` than this: deep networks repeat their blocks."""
    many_tasks: int = 3000
    most_batch_power: int = 12
    """Highest power of two of copies out that start together."""


FLIP = FlipMoves()


@inner
def _flip_run(a: Arrays, s: SearchPlan, w: Workspace, gap: int) -> None:
    """Give a run of later gaps of the same kind and a similar size the same change as `gap`."""
    size = a.size[w.gap_value[gap]]
    run = np.random.randint(2, FLIP.run_gaps if a.duration.size < FLIP.many_tasks else FLIP.run_gaps_of_many)
    for g in range(gap, w.tally[GAPS]):
        alike = w.gap_kind[g] == w.gap_kind[gap] and a.swappable[w.gap_value[g]]
        if alike and 2 * a.size[w.gap_value[g]] >= size and a.size[w.gap_value[g]] <= 2 * size:
            flip(s, w, g)
            run -= 1
        if run <= 0:
            break


@inner
def flip_some(a: Arrays, s: SearchPlan, w: Workspace) -> bool:
    """Change one, two or a run of keep / fetch / home decisions."""
    over = w.total[EXCESS] > 0
    gap = random_gap(
        w,
        focus_position(a, s, w) if over or np.random.random() < FLIP.at_focus else ANYWHERE,
        KEPT if over else ANY_KIND,
    )
    if gap < 0 or not a.swappable[w.gap_value[gap]]:
        return False
    draw = np.random.random()
    if draw < FLIP.run:
        _flip_run(a, s, w, gap)
        return True
    flip(s, w, gap)
    if draw < FLIP.near_pair:
        near = draw >= FLIP.pair
        other = (
            gap + np.random.randint(-FLIP.near_gaps, FLIP.near_gaps + 1) if near else np.random.randint(w.tally[GAPS])
        )
        if 0 <= other < w.tally[GAPS] and a.swappable[w.gap_value[other]]:
            flip(s, w, other)
    return True


@inner
def change_batch(s: SearchPlan) -> bool:
    """Let more, or fewer, copies out start together; False where there is no such power."""
    power = s.batch[0] + (1 if np.random.random() < 0.5 else -1)
    s.batch[0] = max(0, min(FLIP.most_batch_power, power))
    return bool(s.batch[0] == power)
