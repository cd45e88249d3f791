"""Ruin and recreate (Schrimpf et al. 2000), compiled: forget a stretch of a plan and let a rule decide it anew.

A plan is replayed step by step. Outside of the stretch every value is dropped, sent to the host or kept as in the plan;
inside it nothing is recomputed ahead and everything is kept. Wherever memory runs out, then or later, the rule of
`eviction` makes room, and what is missing returns on demand: so a plan that was over the budget mostly comes out within
it.
"""

from typing import NamedTuple

import numpy as np

from planc_solvers.evaluation.arrays import COMPUTED, STATE, Arrays, SearchPlan
from planc_solvers.jit import fill, inner, outer
from planc_solvers.moves.eviction import (
    AWAY,
    COPY_CUTS,
    GONE,
    HELD,
    LINK_PRICE,
    SIZE_POWER,
    WAIT_POWER,
    Trail,
    hold,
    let_go,
    run,
)


class Rebuilding(NamedTuple):
    """What is forgotten, and by which rules it is decided anew; every draw of a tuple's entry is as likely."""

    stretches: tuple[int, ...] = (4, 8, 16, 32, 64, 128, 256)
    """Steps forgotten at a time. Short ones polish, long ones leave a basin, and cost as much as they are long."""
    size_powers: tuple[float, ...] = (0.3, 0.5, 1.0, 1.0)
    """Powers of a value's bytes that divide the cost of its return: with 1 few large values go, below it many small."""
    wait_powers: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0)
    """Powers of its wait that do: with 0 the rule ignores the future, with 2 hardly anything else counts."""
    log_price: float = -2.0
    """Mean of the logarithm of the compute time that a unit of copy time costs. Most of a copy hides behind compute …"""
    log_price_spread: float = 1.2
    """… and how much of it differs between stretches: its standard deviation."""
    copy_cuts: float = 0.5
    """Boundaries that each copy is taken to cost: copies mostly share theirs with another."""


REBUILD = Rebuilding()


@inner
def _draw_weights(t: Trail) -> None:
    """Random weights of the rule: powers of bytes and of wait, price of the link's time, boundaries of a copy."""
    t.weights[SIZE_POWER] = REBUILD.size_powers[np.random.randint(len(REBUILD.size_powers))]
    t.weights[WAIT_POWER] = REBUILD.wait_powers[np.random.randint(len(REBUILD.wait_powers))]
    t.weights[LINK_PRICE] = np.exp(np.random.normal(REBUILD.log_price, REBUILD.log_price_spread))
    t.weights[COPY_CUTS] = REBUILD.copy_cuts


@inner
def _begin(a: Arrays, plan: SearchPlan, s: SearchPlan, t: Trail) -> int:
    """Nothing has run, and what is not computed lies where `plan` has it at the step's start: the bytes on the device."""
    tasks, values, used = a.duration.size, a.size.size, 0
    fill(t.done, tasks, 0)
    fill(t.seen, tasks, 0)
    fill(t.wanted, values, 0)
    fill(t.counters, t.counters.size, 0)
    s.length[0], s.batch[0] = 0, plan.batch[0]
    for v in range(values):
        s.home[v] = plan.home[v]
        t.where[v], t.on_host[v] = GONE, 0
        if a.producer[v] < 0:
            away = s.home[v] != 0
            if away:
                t.where[v] = AWAY
            else:
                hold(v, t)
            t.on_host[v] = away or a.origin[v] != STATE
            used += 0 if away else a.size[v]
    return used


@inner
def _fates(a: Arrays, s: SearchPlan, t: Trail) -> None:
    """What becomes of the values of each step: `t.fates[step, slot]`, what it reads before what it makes."""
    fates, later, seq, fetch = t.fates, t.later, s.seq, s.fetch
    read_ptr, reads, write_ptr, writes = a.read_ptr, a.reads, a.write_ptr, a.writes
    for v in range(a.size.size):
        lives = a.origin[v] != COMPUTED or a.needed[v]
        later[v] = (AWAY if s.home[v] else HELD) if lives else GONE
    for p in range(s.length[0] - 1, -1, -1):
        base, first = read_ptr[seq[p]], write_ptr[seq[p]]
        count = read_ptr[seq[p] + 1] - base
        for k in range(write_ptr[seq[p] + 1] - first):
            fates[p, count + k] = later[writes[first + k]]
            later[writes[first + k]] = GONE
        for k in range(count):
            fates[p, k] = later[reads[base + k]]
            fetched = (fetch[p, k >> 6] >> np.uint64(k & 63)) & np.uint64(1) != np.uint64(0)
            later[reads[base + k]] = AWAY if fetched else HELD


@inner
def _settle(a: Arrays, v: int, fate: int, t: Trail) -> int:
    """Let `v`, just accessed, go as the plan has it; the bytes that this frees."""
    if t.where[v] != HELD or fate == HELD:
        return 0
    if (a.swappable[v] == 0) if fate == AWAY else (a.producer[v] < 0):
        return 0
    let_go(v, fate, t)
    if fate == AWAY:
        t.on_host[v] = 1
    return int(a.size[v])


@outer
def rebuild(a: Arrays, plan: SearchPlan, s: SearchPlan, t: Trail, begin: int, end: int) -> bool:
    """Write `plan` into `s`, its steps [begin, end) decided anew by `t.weights`; False when the rule finds no way."""
    used, now, last = _begin(a, plan, s, t), 0, a.duration.size - 1
    _fates(a, plan, t)
    where, done, writes, fates = t.where, t.done, a.writes, t.fates
    for p in range(plan.length[0]):
        # 1. A step that makes nothing that is missing is left out: it ran already, and its values are still there.
        target, forgotten = plan.seq[p], begin <= p < end
        first, until = a.write_ptr[target], a.write_ptr[target + 1]
        useful = False
        for k in range(first, until):
            useful = useful or where[writes[k]] != HELD
        if done[target] and (forgotten or not useful):
            continue
        # 2. It runs, after what it needs, with room made by the rule; `ahead` is where the rule looks from.
        ahead = min(now + 1, last) if done[target] else target
        now = now if done[target] else target
        used = run(a, s, target, plan.choice[p], ahead, t, used)
        if used < 0:
            return False
        # 3. Outside of the stretch, what the plan lets go here goes.
        if not forgotten:
            count = a.read_ptr[target + 1] - a.read_ptr[target]
            for k in range(count):
                used -= _settle(a, a.reads[a.read_ptr[target] + k], fates[p, k], t)
            for k in range(until - first):
                used -= _settle(a, writes[first + k], fates[p, count + k], t)
    return True


@inner
def rebuild_stretch(a: Arrays, plan: SearchPlan, s: SearchPlan, t: Trail) -> bool:
    """Write `plan` into `s`, a random stretch of it decided anew by random weights; False when the rule finds no way."""
    steps = REBUILD.stretches[np.random.randint(len(REBUILD.stretches))]
    begin = np.random.randint(plan.length[0] + steps // 2) - steps // 2
    _draw_weights(t)
    return bool(rebuild(a, plan, s, t, begin, begin + steps))
