"""First plans for tight budgets: every task in order, with the rule of `eviction` where memory runs out."""

from collections.abc import Iterator
from itertools import count, product
from typing import NamedTuple

import numpy as np

from planc_solvers.evaluation.arrays import Arrays, SearchPlan, arrays_of, empty_plan
from planc_solvers.evaluation.evaluate import evaluate
from planc_solvers.evaluation.workspace import EXCESS, MAKESPAN, Floats, Workspace, workspace
from planc_solvers.moves.eviction import trail
from planc_solvers.moves.rebuild import rebuild
from planc_solvers.ready import TINY, Once


class GreedySettings(NamedTuple):
    """Weights of the rule of `eviction` that are tried, one plan for each."""

    powers: tuple[tuple[float, float], ...] = ((1.0, 0.5), (1.0, 1.0), (0.5, 0.5), (0.5, 1.0), (1.0, 2.0), (1.0, 0.0))
    """Powers of a value's bytes and of its wait by which the cost of its return is divided, tried first: from rules that
    look far ahead to one that does not."""
    copying: tuple[tuple[float, float], ...] = ((0.1, 0.5), (0.3, 0.1), (0.03, 0.5), (1.0, 0.1))
    """With each of them: the compute time that a unit of copy time is taken to cost, less the more of it hides, and the
    boundaries that each copy is, less the more copies share theirs. Without swaps the first will do."""
    spread: float = 0.5
    """Standard deviation of the weights tried then around the best, of the price's in its logarithm: wider, and few draws
    are better than the best; closer, and they find its neighbours only."""


SETTINGS = GreedySettings()


def greedy_plans(a: Arrays, place: Workspace, seed: int, family: int = 0) -> Iterator[SearchPlan | None]:
    """Try one set of weights after the other, without end: a plan within the budgets faster than all before, or None.

    The first family begins with listed weights, the others where chance puts them.
    """
    found, generator = trail(a), np.random.default_rng((seed, family))
    copying = SETTINGS.copying if a.swappable.any() else SETTINGS.copying[:1]
    first = [np.array([*powers, *copies]) for powers, copies in product(SETTINGS.powers, copying)]
    if family:
        first = [_nearby(first[int(generator.integers(len(first)))], generator)]
    best, lowest, keep = first[0], np.inf, empty_plan(a)
    for trial in count():
        weights = first[trial] if trial < len(first) else _nearby(best, generator)
        plan = empty_plan(a)
        found.weights[:] = weights
        valid = rebuild(a, keep, plan, found, 0, keep.seq.size) and evaluate(a, plan, place)
        better = valid and place.total[EXCESS] <= 0 and place.total[MAKESPAN] < lowest
        if better:
            best, lowest = weights, float(place.total[MAKESPAN])
        yield plan if better else None


def _nearby(weights: Floats, generator: np.random.Generator) -> Floats:
    step = generator.normal(0.0, SETTINGS.spread, 4)
    wait, price, cuts = max(0.0, weights[1] + step[1]), weights[2] * np.exp(step[2]), weights[3] * np.exp(2 * step[3])
    return np.array([weights[0] + step[0] / 2, wait, price, cuts])


@Once
def ready_greedy() -> None:
    """Compile, or load, the plans of this file."""
    tiny = arrays_of(TINY)
    next(greedy_plans(tiny, workspace(tiny), 0))
