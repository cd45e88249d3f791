"""A plan over the budget made to fit: what lies idle there longest is copied out and fetched.

Belady's rule (1966) on the idle stretches of an evaluated plan: plans of a problem with a little less memory stay what
they are elsewhere.
"""

import numpy as np

from planc_solvers.evaluation.arrays import Arrays, SearchPlan
from planc_solvers.evaluation.evaluate import evaluate
from planc_solvers.evaluation.workspace import EXCESS, GAPS, KEPT, Workspace


def mend(a: Arrays, plan: SearchPlan, place: Workspace) -> bool:
    """Fetch idle values of `plan` until no step is over the budget; whether it now fits, evaluated in `place`."""
    if not evaluate(a, plan, place):
        return False
    if place.total[EXCESS] > 0:
        _fetch_idle(a, plan, place)
        return evaluate(a, plan, place) and bool(place.total[EXCESS] <= 0)
    return True


def _fetch_idle(a: Arrays, plan: SearchPlan, place: Workspace) -> None:
    """Step by step, fetch of the values idle across it those of the most bytes times steps, until it fits."""
    gaps = int(place.tally[GAPS])
    idle = np.flatnonzero((place.gap_kind[:gaps] == KEPT) & (a.swappable[place.gap_value[:gaps]] == 1))
    begin, end, slot = place.gap_from[idle], place.gap_to[idle], place.gap_slot[idle]
    size = a.size[place.gap_value[idle]]
    memory = place.memory[: plan.length[0]].copy()
    for position in np.flatnonzero(memory > a.budget):
        if memory[position] <= a.budget:
            continue
        across = np.flatnonzero((begin <= position) & (position < end) & (size > 0))
        for gap in across[np.argsort(-size[across] * (end[across] - position), kind="stable")]:
            if memory[position] <= a.budget:
                break
            plan.fetch[end[gap], slot[gap] >> 6] |= np.uint64(1) << np.uint64(slot[gap] & 63)
            memory[begin[gap] : end[gap]] -= size[gap]
            size[gap] = 0
