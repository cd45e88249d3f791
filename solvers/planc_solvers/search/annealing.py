"""Local search over plans: simulated annealing (Kirkpatrick et al. 1983) on exact evaluations, compiled.

The score is the step time plus a price on bytes over the budget, which rises while plans are over and falls while they
fit. Moves change one or a few decisions: a gap is fetched instead of kept, a value lives at home, a task is recomputed
just before a use (with the chain of inputs that are gone), a recomputation is removed, moved or replaced by a fetch. When
`rebuilding`, a stretch of the plan is decided anew instead (`rebuild`).
"""

from dataclasses import dataclass

import numpy as np

from planc.compiled.packed import Packed
from planc_solvers.evaluation.arrays import MOST_BATCH_POWER, Arrays, Bytes8, Ints, SearchPlan, arrays_of, empty_plan
from planc_solvers.evaluation.evaluate import evaluate, evaluate_within
from planc_solvers.evaluation.workspace import (
    COMPUTE,
    EXCESS,
    FETCHED,
    GAPS,
    HOME,
    KEPT,
    MAKESPAN,
    REPEATS,
    Floats,
    Workspace,
    workspace,
)
from planc_solvers.jit import inner, outer
from planc_solvers.moves.edits import flip, remove, shift
from planc_solvers.moves.eviction import Trail, trail
from planc_solvers.moves.form_choices import choose, has_forms
from planc_solvers.moves.rebuild import rebuild_stretch
from planc_solvers.moves.recompute_chain import CHAIN_DEPTH, insert_chain
from planc_solvers.moves.repeat_runs import drop_run, part_of_run, shift_run
from planc_solvers.ready import TINY, Once

# Indices of `Annealing.state`.
SCORE, PRICE, BEST, CURRENT, FIRST_PRICE = range(5)

PRICE_RANGE = 30.0
"""How far the price on excess may move from its first value, up or down: beyond, every plan over or none would do."""

REORDER_SHARE = 0.4
"""Part of the moves that shift a step, where the order is free."""

RUN_SHARE = 0.16
"""Part of the moves, without swaps and in a fixed order, that change recomputations side by side together."""

DRAWS = 40
"""Random draws before a move gives up looking for its target."""


@dataclass(frozen=True, eq=False)
class Annealing(Packed):
    """One search: the current plan is `plans[CURRENT]` with its evaluation, the other pair is the neighbour's."""

    plans: tuple[SearchPlan, SearchPlan]
    places: tuple[Workspace, Workspace]
    best: SearchPlan
    state: Floats
    """Score of the current plan, price (ns per byte-position), best step time (ns), index of the current plan, and the
    price that the search began with."""
    alive: Bytes8
    chain: Ints
    trail: Trail


def annealing(a: Arrays) -> Annealing:
    """A search of the problem `a` that has not started."""
    plans = (empty_plan(a), empty_plan(a))
    places = (workspace(a), workspace(a))
    alive = np.zeros(a.size.size, np.uint8)
    chain = np.zeros(2 * CHAIN_DEPTH + 2, np.int64)
    return Annealing(plans, places, empty_plan(a), np.zeros(5), alive, chain, trail(a))


@outer
def copy_plan(source: SearchPlan, target: SearchPlan) -> None:
    """Overwrite `target` with `source`."""
    length, words = source.length[0], source.fetch.shape[1]
    seq, fetch, home, choice = source.seq, source.fetch, source.home, source.choice
    to_seq, to_fetch, to_home, to_choice = target.seq, target.fetch, target.home, target.choice
    for p in range(length):
        to_seq[p] = seq[p]
        to_choice[p] = choice[p]
        for q in range(words):
            to_fetch[p, q] = fetch[p, q]
    for v in range(home.size):
        to_home[v] = home[v]
    target.length[0], target.batch[0] = length, source.batch[0]


def copied(a: Arrays, plan: SearchPlan) -> SearchPlan:
    """A copy of `plan`."""
    twin = empty_plan(a)
    copy_plan(plan, twin)
    return twin


@inner
def _focus(a: Arrays, s: SearchPlan, w: Workspace) -> int:
    """A position over the budget when there is one, else the fullest of a few."""
    length, memory, budget, over = s.length[0], w.memory, a.budget, w.total[EXCESS] > 0
    best = np.random.randint(length)
    for _ in range(60 if over else 4):
        p = np.random.randint(length)
        if over and memory[p] > budget:
            return int(p)
        if memory[p] > memory[best]:
            best = p
    return int(best)


@inner
def _gap_at(w: Workspace, position: int, kind: int) -> int:
    """A random gap of that kind (-1: any) over the position (-1: anywhere), or -1."""
    gaps, gap_kind, gap_from, gap_to = w.tally[GAPS], w.gap_kind, w.gap_from, w.gap_to
    if gaps == 0:
        return -1
    for _ in range(DRAWS):
        g = np.random.randint(gaps)
        if kind >= 0 and gap_kind[g] != kind:
            continue
        if position < 0 or gap_from[g] <= position < gap_to[g]:
            return int(g)
    return -1


@inner
def _fetch_inputs(a: Arrays, s: SearchPlan, position: int, chance: float) -> None:
    """Let the inputs of an inserted recomputation be fetched, each with that chance, rather than kept for it."""
    task = s.seq[position]
    for k in range(a.read_ptr[task], a.read_ptr[task + 1]):
        slot = k - a.read_ptr[task]
        if a.swappable[a.reads[k]] and np.random.random() < chance:
            s.fetch[position, slot >> 6] |= np.uint64(1) << np.uint64(slot & 63)


@inner
def _recompute(a: Arrays, s: SearchPlan, w: Workspace, m: Annealing, gap: int) -> int:
    """Recompute the gap's value before the later access instead of keeping or fetching it: the position, or -1."""
    if w.gap_kind[gap] == HOME:
        return -1
    if w.gap_kind[gap] == FETCHED:
        flip(s, w, gap)
    position = w.gap_to[gap]
    if np.random.random() < 0.25:
        position -= np.random.randint(min(position - w.gap_from[gap], 6) + 1)
    before = s.length[0]
    if not insert_chain(a, s, w, m.alive, m.chain, w.gap_value[gap], position):
        return -1
    if np.random.random() < 0.3:
        for p in range(position, position + s.length[0] - before):
            _fetch_inputs(a, s, p, 0.5)
    return int(position)


@inner
def _drop_repeat(a: Arrays, s: SearchPlan, w: Workspace, exchange: bool) -> bool:
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
def _trade_run(a: Arrays, s: SearchPlan, w: Workspace, m: Annealing) -> bool:
    """Recompute one value instead of others: remove recomputations side by side and recompute the value of a gap."""
    if w.tally[REPEATS] == 0:
        return False
    begin, end = part_of_run(w)
    gap = _gap_at(w, begin if np.random.random() < 0.7 else -1, KEPT)
    if gap < 0:
        return False
    before, position = s.length[0], _recompute(a, s, w, m, gap)
    if position < 0 or begin <= position <= end:
        return False
    moved = s.length[0] - before if position < begin else 0
    for _ in range(begin, end):
        remove(s, begin + moved)
    return True


@inner
def _propose_runs(a: Arrays, s: SearchPlan, w: Workspace, m: Annealing, draw: float) -> bool:
    """Change recomputations side by side together; `draw` in [0, RUN_SHARE) says how."""
    if draw < 0.25 * RUN_SHARE:
        return drop_run(s, w)
    if draw < 0.75 * RUN_SHARE:
        return _trade_run(a, s, w, m)
    return shift_run(s, w)


@inner
def _move_repeat(a: Arrays, s: SearchPlan, w: Workspace) -> bool:
    """Shift a recomputation to a nearby position, or put another task in its place."""
    if w.tally[REPEATS] == 0:
        return False
    position = w.repeats[np.random.randint(w.tally[REPEATS])]
    task = s.seq[position]
    if np.random.random() < 0.6:
        reach = 5 if np.random.random() < 0.7 else 40
        target = position + np.random.randint(1, reach) * (1 if np.random.random() < 0.5 else -1)
        target = max(w.first[task] + 1, min(s.length[0] - 1, target))
        shift(s, position, target)
        return True
    other = np.random.randint(a.duration.size)
    fan = a.read_ptr[task + 1] - a.read_ptr[task]
    if fan > 0 and np.random.random() < 0.6:
        other = a.producer[a.reads[a.read_ptr[task] + np.random.randint(fan)]]
    if other < 0 or not a.recomputable[other] or w.first[other] >= position:
        return False
    s.seq[position] = other
    s.choice[position] = 0
    for q in range(s.fetch.shape[1]):
        s.fetch[position, q] = np.uint64(0)
    return True


@inner
def _move_first(s: SearchPlan, w: Workspace) -> bool:
    """Shift a step, mostly the first execution of its task, to a nearby position around the focus."""
    length = s.length[0]
    position = _focus_step(w, length)
    reach = 8 if np.random.random() < 0.5 else 80
    target = position + np.random.randint(1, reach) * (1 if np.random.random() < 0.5 else -1)
    target = max(0, min(length - 1, target))
    if target == position:
        return False
    shift(s, position, target)
    return True


@inner
def _focus_step(w: Workspace, length: int) -> int:
    """A random step; half of the time one that lies near the fullest of a few."""
    best = np.random.randint(length)
    if np.random.random() < 0.5:
        return int(best)
    for _ in range(8):
        p = np.random.randint(length)
        if w.memory[p] > w.memory[best]:
            best = p
    return int(max(0, min(length - 1, best + np.random.randint(-10, 11))))


@inner
def _flip_run(a: Arrays, s: SearchPlan, w: Workspace, gap: int) -> None:
    """Give a run of later gaps of the same kind and a similar size the same change as `gap`."""
    size = a.size[w.gap_value[gap]]
    run = np.random.randint(2, 8 if a.duration.size < 3000 else 60)
    for g in range(gap, w.tally[GAPS]):
        alike = w.gap_kind[g] == w.gap_kind[gap] and a.swappable[w.gap_value[g]]
        if alike and 2 * a.size[w.gap_value[g]] >= size and a.size[w.gap_value[g]] <= 2 * size:
            flip(s, w, g)
            run -= 1
        if run <= 0:
            break


@inner
def _flip_move(a: Arrays, s: SearchPlan, w: Workspace) -> bool:
    """Change one, two or a run of keep / fetch / home decisions."""
    over = w.total[EXCESS] > 0
    gap = _gap_at(w, _focus(a, s, w) if over or np.random.random() < 0.4 else -1, KEPT if over else -1)
    if gap < 0 or not a.swappable[w.gap_value[gap]]:
        return False
    draw = np.random.random()
    if draw < 0.15:
        _flip_run(a, s, w, gap)
        return True
    flip(s, w, gap)
    if draw < 0.6:
        other = np.random.randint(w.tally[GAPS]) if draw < 0.3 else gap + np.random.randint(-12, 13)
        if 0 <= other < w.tally[GAPS] and a.swappable[w.gap_value[other]]:
            flip(s, w, other)
    return True


@inner
def _propose(a: Arrays, s: SearchPlan, w: Workspace, m: Annealing, swaps: bool, runs: bool) -> bool:
    """Change the copy `s` of the current plan, whose evaluation is `w`; False when no move came of it."""
    if not has_forms(a):
        return _propose_copies(a, s, w, m, swaps, runs)
    draw = np.random.random()
    changed = draw > 0.15 and _propose_copies(a, s, w, m, swaps, runs)
    if draw < 0.4:
        changed = choose(a, s, w, min(_focus(a, s, w), s.length[0] - 1)) or changed
    return changed


@inner
def _propose_copies(a: Arrays, s: SearchPlan, w: Workspace, m: Annealing, swaps: bool, runs: bool) -> bool:
    """Change what is kept, fetched or recomputed, or seldom how many copies start together."""
    if swaps and a.boundary > 0 and np.random.random() < 0.003:
        power = s.batch[0] + (1 if np.random.random() < 0.5 else -1)
        s.batch[0] = max(0, min(MOST_BATCH_POWER, power))
        return bool(s.batch[0] == power)
    changed = False
    if runs:
        draw = np.random.random()
        if draw < RUN_SHARE:
            return _propose_runs(a, s, w, m, draw)
    elif swaps:
        draw = np.random.random()
        if draw < 0.65:
            changed = _flip_move(a, s, w)
            if draw < 0.5:
                return changed
    draw = np.random.random()
    if draw < 0.4:
        gap = _gap_at(w, _focus(a, s, w), KEPT if w.total[EXCESS] > 0 or not swaps else -1)
        return (gap >= 0 and _recompute(a, s, w, m, gap) >= 0) or changed
    if draw < 0.7:
        return _drop_repeat(a, s, w, swaps and np.random.random() < 0.5) or changed
    return _move_repeat(a, s, w) or changed


@inner
def _score(w: Workspace, price: float) -> float:
    return float(w.total[MAKESPAN] + price * w.total[EXCESS])


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


@outer
def anneal(
    a: Arrays, m: Annealing, swaps: bool, rounds: int, hot: float, cold: float, pace: float, seed: int,
    reorder: bool, rebuilding: bool,
) -> int:  # fmt: skip
    """Run `rounds` moves with the temperature (ns) falling from `hot` to `cold`; the number of plans evaluated.

    The price on excess rises by 2 `pace` a move while the plan is over the budget and falls by `pace` while it fits.
    """
    np.random.seed(seed)
    evaluated = 0
    for i in range(rounds):
        heat = hot * (cold / hot) ** (i / rounds)
        now = int(m.state[CURRENT])
        s, w = m.plans[1 - now], m.places[1 - now]
        if rebuilding:
            moved = rebuild_stretch(a, m.plans[now], s, m.trail)
        else:
            copy_plan(m.plans[now], s)
            if reorder and np.random.random() < REORDER_SHARE:
                moved = _move_first(s, m.places[now])
            else:
                moved = _propose(a, s, m.places[now], m, swaps, not swaps and not reorder)
        if not moved:
            continue
        limit = m.state[SCORE] - heat * np.log(1.0 - np.random.random())
        if s.length[0] >= s.seq.size - CHAIN_DEPTH - 2 or not evaluate_within(a, s, w, m.state[PRICE], limit):
            continue
        evaluated += 1
        score = _score(w, m.state[PRICE])
        if score <= limit:
            m.state[CURRENT] = 1 - now
            m.state[SCORE] = score
            if w.total[EXCESS] <= 0 and w.total[MAKESPAN] < m.state[BEST] - 0.5:
                m.state[BEST] = w.total[MAKESPAN]
                copy_plan(s, m.best)
        place = m.places[int(m.state[CURRENT])]
        price = m.state[PRICE] * (1 + 2 * pace if place.total[EXCESS] > 0 else 1 - pace)
        m.state[PRICE] = max(m.state[FIRST_PRICE] / PRICE_RANGE, min(m.state[FIRST_PRICE] * PRICE_RANGE, price))
        m.state[SCORE] = _score(place, m.state[PRICE])
    return evaluated


@Once
def ready_search() -> None:
    """Compile, or load, the annealing."""
    tiny = arrays_of(TINY)
    search = annealing(tiny)
    start(tiny, search, empty_plan(tiny), 1.0)
    anneal(tiny, search, False, 1, 1.0, 1.0, 0.0, 0, False, False)


__all__ = ["BEST", "COMPUTE", "Annealing", "anneal", "annealing", "copied", "copy_plan", "ready_search", "start"]
