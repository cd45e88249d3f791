"""One small move of the search, compiled: which kind it is, drawn at random.

Shares measured best, or near it, on the cases of `benchmarks/solver/run.py`; docs/solver.md tells what else was tried.
"""

from typing import NamedTuple

import numpy as np

from planc_solvers.evaluation.arrays import Arrays, SearchPlan
from planc_solvers.evaluation.workspace import EXCESS, KEPT, Workspace
from planc_solvers.jit import inner
from planc_solvers.moves.edits import shift
from planc_solvers.moves.form_choices import choose, has_forms
from planc_solvers.moves.keep_or_fetch import change_batch, flip_some
from planc_solvers.moves.recompute_chain import ChainRoom
from planc_solvers.moves.repeat_runs import drop_run, shift_run
from planc_solvers.moves.repeats import drop_repeat, move_repeat, recompute_gap, trade_run
from planc_solvers.moves.targets import ANY_KIND, focus_position, random_gap, step_near_full


class MoveShares(NamedTuple):
    """How often each kind of move is drawn."""

    form: float = 0.4
    """Where tasks have forms, part of the moves that change one."""
    form_only: float = 0.15
    """Part of the moves that change nothing else."""
    batch: float = 0.003
    """Part of the moves that change how many copies out start together: that changes the whole plan, mostly
    for the worse."""
    flip: float = 0.65
    """With swaps, part of the moves that change what is fetched."""
    flip_only: float = 0.5
    """Part of the moves that change nothing else."""
    run: float = 0.16
    """Without swaps and in a fixed order, part of the moves that change recomputations side by side together. With swaps
    that did not help, and while the order is searched it cost `layered 1000` at 80 % 0.8 points."""
    run_dropped: float = 0.25
    """Of these, the part that removes a run."""
    run_traded: float = 0.75
    """Up to this part a run is traded for the recomputation of something else; the rest shift it."""
    repeat_added: float = 0.4
    """Of the moves of single recomputations, the part that adds one."""
    repeat_dropped: float = 0.7
    """Up to this part one is removed; the rest move one."""
    near_steps: int = 8
    """Where the order is free, a first execution shifts by fewer steps than this or, as often, …"""
    far_steps: int = 80
    """… by fewer than this."""


MOVES = MoveShares()


@inner
def propose(a: Arrays, s: SearchPlan, w: Workspace, room: ChainRoom, swaps: bool, runs: bool) -> bool:
    """Change the copy `s` of the current plan, whose evaluation is `w`; False when no move came of it."""
    if not has_forms(a):
        return _propose_copies(a, s, w, room, swaps, runs)
    draw = np.random.random()
    changed = draw > MOVES.form_only and _propose_copies(a, s, w, room, swaps, runs)
    if draw < MOVES.form:
        changed = choose(a, s, w, min(focus_position(a, s, w), s.length[0] - 1)) or changed
    return changed


@inner
def _propose_copies(a: Arrays, s: SearchPlan, w: Workspace, room: ChainRoom, swaps: bool, runs: bool) -> bool:
    """Change what is kept, fetched or recomputed, or seldom how many copies start together."""
    if swaps and a.boundary > 0 and np.random.random() < MOVES.batch:
        return change_batch(s)
    changed = False
    if runs:
        draw = np.random.random()
        if draw < MOVES.run:
            return _propose_runs(a, s, w, room, draw)
    elif swaps:
        draw = np.random.random()
        if draw < MOVES.flip:
            changed = flip_some(a, s, w)
            if draw < MOVES.flip_only:
                return changed
    draw = np.random.random()
    if draw < MOVES.repeat_added:
        gap = random_gap(w, focus_position(a, s, w), KEPT if w.total[EXCESS] > 0 or not swaps else ANY_KIND)
        return (gap >= 0 and recompute_gap(a, s, w, room, gap) >= 0) or changed
    if draw < MOVES.repeat_dropped:
        return drop_repeat(a, s, w, swaps and np.random.random() < 0.5) or changed
    return move_repeat(a, s, w) or changed


@inner
def _propose_runs(a: Arrays, s: SearchPlan, w: Workspace, room: ChainRoom, draw: float) -> bool:
    """Change recomputations side by side together; `draw` in [0, MOVES.run) says how."""
    if draw < MOVES.run_dropped * MOVES.run:
        return drop_run(s, w)
    if draw < MOVES.run_traded * MOVES.run:
        return trade_run(a, s, w, room)
    return shift_run(s, w)


@inner
def shift_step(s: SearchPlan, w: Workspace) -> bool:
    """Shift a step, mostly the first execution of its task, to a nearby position around the focus."""
    length = s.length[0]
    position = step_near_full(w, length)
    reach = MOVES.near_steps if np.random.random() < 0.5 else MOVES.far_steps
    target = position + np.random.randint(1, reach) * (1 if np.random.random() < 0.5 else -1)
    target = max(0, min(length - 1, target))
    if target == position:
        return False
    shift(s, position, target)
    return True
