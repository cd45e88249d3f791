"""Local search over plans: simulated annealing (Kirkpatrick et al. 1983) on exact evaluations, compiled.

The score is the step time plus a price on bytes over the budget, which rises while plans are over and falls while they
fit. Moves change one or a few decisions (`propose`), or decide a stretch of the plan anew (`rebuild`).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from planc.compiled.packed import Packed
from planc_solvers.evaluation.arrays import Arrays, SearchPlan, arrays_of, empty_plan
from planc_solvers.evaluation.evaluate import evaluate, evaluate_within
from planc_solvers.evaluation.plan_copies import copy_plan
from planc_solvers.evaluation.workspace import EXCESS, MAKESPAN, Floats, Workspace, workspace
from planc_solvers.jit import inner, outer
from planc_solvers.moves.eviction import Trail, trail
from planc_solvers.moves.propose import propose, shift_step
from planc_solvers.moves.rebuild import rebuild_stretch
from planc_solvers.moves.recompute_chain import CHAINS, ChainRoom, chain_room
from planc_solvers.ready import TINY, Once

SCORE, PRICE, BEST, CURRENT, FIRST_PRICE = range(5)
"""Indices of `Annealing.state`."""

SMALL_MOVES, FREE_MOVES, REBUILDING = range(3)
"""Modes of a `Turn`: small moves in the given order, such among which steps shift freely, and stretches decided anew."""


class AnnealingSettings(NamedTuple):
    """What holds for every turn."""

    price_range: float = 30.0
    """How far the price on excess may move from its first value, up or down: beyond, every plan over the budget would do,
    or none."""
    shifts: float = 0.4
    """Part of the moves that shift a step, where the order is free; the others decide what is recomputed."""


SETTINGS = AnnealingSettings()


@dataclass(frozen=True, eq=False)
class Annealing(Packed):
    """One search: the current plan is `plans[CURRENT]` with its evaluation, the other pair is the neighbour's."""

    plans: tuple[SearchPlan, SearchPlan]
    places: tuple[Workspace, Workspace]
    best: SearchPlan
    state: Floats
    """Score of the current plan, price (ns per byte-position), best step time (ns), index of the current plan, and the
    price that the search began with."""
    room: ChainRoom
    trail: Trail
    swaps: int
    """1 where anything may be swapped."""


@dataclass(frozen=True, eq=False)
class Turn(Packed):
    """What one call of `anneal` does: so many moves of a mode, at a temperature of `heat` ns.

    The price on excess rises by 2 `pace` a move while the plan is over the budget and falls by `pace` while it fits.
    """

    mode: int
    moves: int
    heat: float
    pace: float
    seed: int


def annealing(a: Arrays) -> Annealing:
    """A search of the problem `a` that has not started."""
    plans, places = (empty_plan(a), empty_plan(a)), (workspace(a), workspace(a))
    swaps = int(a.swappable.any())
    return Annealing(plans, places, empty_plan(a), np.zeros(5), chain_room(a), trail(a), swaps)


def start(a: Arrays, m: Annealing, plan: SearchPlan, price: float) -> bool:
    """Begin or resume at `plan`; False when it does not compute the problem."""
    copy_plan(plan, m.plans[0])
    if not evaluate(a, m.plans[0], m.places[0]):
        return False
    m.state[CURRENT] = 0
    m.state[PRICE] = price
    if m.state[FIRST_PRICE] <= 0:
        m.state[FIRST_PRICE] = price
    m.state[SCORE] = m.places[0].total[MAKESPAN] + price * m.places[0].total[EXCESS]
    if m.places[0].total[EXCESS] <= 0 and m.places[0].total[MAKESPAN] < m.state[BEST]:
        m.state[BEST] = m.places[0].total[MAKESPAN]
        copy_plan(plan, m.best)
    return True


@inner
def _score(w: Workspace, price: float) -> float:
    return float(w.total[MAKESPAN] + price * w.total[EXCESS])


@inner
def _neighbour(a: Arrays, m: Annealing, mode: int, now: int) -> bool:
    """Make the other plan a neighbour of the current one; False when no move came of it."""
    current, place, other = m.plans[now], m.places[now], m.plans[1 - now]
    if mode == REBUILDING:
        return rebuild_stretch(a, current, other, m.trail)
    copy_plan(current, other)
    if mode == FREE_MOVES and np.random.random() < SETTINGS.shifts:
        return shift_step(other, place)
    return propose(a, other, place, m.room, m.swaps != 0, m.swaps == 0 and mode == SMALL_MOVES)


@inner
def _accept(m: Annealing, now: int, score: float) -> None:
    """Go on from the other plan, which is evaluated and has that score."""
    place = m.places[1 - now]
    m.state[CURRENT] = 1 - now
    m.state[SCORE] = score
    if place.total[EXCESS] <= 0 and place.total[MAKESPAN] < m.state[BEST] - 0.5:
        m.state[BEST] = place.total[MAKESPAN]
        copy_plan(m.plans[1 - now], m.best)


@inner
def _adapt_price(m: Annealing, pace: float) -> None:
    """Let the price follow the current plan, and its score the price."""
    place, first = m.places[int(m.state[CURRENT])], m.state[FIRST_PRICE]
    price = m.state[PRICE] * (1 + 2 * pace if place.total[EXCESS] > 0 else 1 - pace)
    m.state[PRICE] = max(first / SETTINGS.price_range, min(first * SETTINGS.price_range, price))
    m.state[SCORE] = _score(place, m.state[PRICE])


@outer
def anneal(a: Arrays, m: Annealing, turn: Turn) -> int:
    """Search on from the current plan; the number of plans evaluated."""
    np.random.seed(turn.seed)
    evaluated = 0
    for _ in range(turn.moves):
        # 1. A neighbour of the current plan.
        now = int(m.state[CURRENT])
        plan, place = m.plans[1 - now], m.places[1 - now]
        if not _neighbour(a, m, turn.mode, now):
            continue
        # 2. Its score; no closer than is needed to tell that it is refused (the Metropolis rule, its draw made first).
        limit = m.state[SCORE] - turn.heat * np.log(1.0 - np.random.random())
        full = plan.length[0] >= plan.seq.size - CHAINS.depth - 2
        if full or not evaluate_within(a, plan, place, m.state[PRICE], limit):
            continue
        evaluated += 1
        # 3. Take it or not.
        score = _score(place, m.state[PRICE])
        if score <= limit:
            _accept(m, now, score)
        _adapt_price(m, turn.pace)
    return evaluated


@Once
def ready_search() -> None:
    """Compile, or load, the annealing."""
    tiny = arrays_of(TINY)
    search = annealing(tiny)
    start(tiny, search, empty_plan(tiny), 1.0)
    anneal(tiny, search, Turn(SMALL_MOVES, 1, 1.0, 0.0, 0))
