"""Simulation of the four engines, compiled; the rules, and the result, are those of planc.schedule.simulate.

An engine takes its items in order: compute the steps of the plan, each copy engine its copies, the exchange engine the
exchanges. It begins the next item when it is idle and what that waits for is over, and runs slower while others run.
Time goes from one end of an item to the next.
"""

import numpy as np

from planc_solvers.evaluation.arrays import Arrays, SearchPlan
from planc_solvers.evaluation.workspace import (
    AWAITED_EXCHANGES,
    AWAITED_INS,
    AWAITED_OUTS,
    COMPUTE_ENGINE,
    ENGINES,
    EXCHANGE_ENGINE,
    EXCHANGES,
    IN_ENGINE,
    INS,
    OUT_ENGINE,
    OUTS,
    RELEASED_OUTS,
    Workspace,
)
from planc_solvers.jit import fill, inner, piece

IDLE = -1.0
"""Time left of an engine's item when it has none."""

ROUNDING_NS = 1e-6
"""An item with no more than this left has ended."""


@inner
def _mark_boundaries(a: Arrays, s: SearchPlan, w: Workspace) -> None:
    """Set `w.wait` at the positions where a copy or exchange starts or is awaited, or the form of tasks changes."""
    wait, out_start, out_stop, in_start, in_stop = w.wait, w.out_start, w.out_stop, w.in_start, w.in_stop
    fill(wait, s.length[0] + 1, 0)
    for i in range(w.tally[OUTS]):
        wait[out_start[i]] = wait[out_stop[i]] = 1
    for i in range(w.tally[INS]):
        wait[in_start[i]] = wait[in_stop[i]] = 1
    for i in range(w.tally[EXCHANGES]):
        wait[w.exchange_from[i]] = wait[w.exchange_at[i]] = 1
    wait[0] = wait[s.length[0]] = 0
    if a.form_ns.size == a.duration.size:
        return
    seq, choice, form_ptr, form_name = s.seq, s.choice, a.form_ptr, a.form_name
    form = -1
    for p in range(s.length[0]):
        base = form_ptr[seq[p]]
        if form_ptr[seq[p] + 1] > base + 1:
            name = form_name[base + choice[p]]
            if form >= 0 and name != form:
                wait[p] = 1
            form = name


@piece
def _prepare(s: SearchPlan, w: Workspace) -> None:
    """All engines idle before their first items, nothing awaited."""
    w.engine_items[COMPUTE_ENGINE] = s.length[0]
    w.engine_items[OUT_ENGINE], w.engine_items[IN_ENGINE] = w.tally[OUTS], w.tally[INS]
    w.engine_items[EXCHANGE_ENGINE] = w.tally[EXCHANGES]
    for engine in range(ENGINES):
        w.engine_next[engine], w.engine_left[engine], w.engine_slow[engine] = 0, IDLE, 1.0
    w.awaited[AWAITED_OUTS] = w.awaited[AWAITED_INS] = w.awaited[RELEASED_OUTS] = 0
    w.awaited[AWAITED_EXCHANGES] = 0


@piece
def _step_may_start(w: Workspace, position: int) -> bool:
    """Whether the copies and exchanges awaited before the step at `position` are over."""
    awaited, outs, ins, exchanges = w.awaited, w.tally[OUTS], w.tally[INS], w.tally[EXCHANGES]
    while awaited[AWAITED_OUTS] < outs and w.out_stop[w.out_order[awaited[AWAITED_OUTS]]] <= position:
        awaited[AWAITED_OUTS] += 1
    while awaited[AWAITED_INS] < ins and w.in_stop[awaited[AWAITED_INS]] <= position:
        awaited[AWAITED_INS] += 1
    while awaited[AWAITED_EXCHANGES] < exchanges and w.exchange_at[awaited[AWAITED_EXCHANGES]] <= position:
        awaited[AWAITED_EXCHANGES] += 1
    done = w.engine_next
    if done[EXCHANGE_ENGINE] < awaited[AWAITED_EXCHANGES]:
        return False
    return bool(done[OUT_ENGINE] >= awaited[AWAITED_OUTS] and done[IN_ENGINE] >= awaited[AWAITED_INS])


@piece
def _out_may_start(w: Workspace, item: int) -> bool:
    """Whether compute has come to where the copy out starts."""
    return bool(w.out_start[w.out_order[item]] <= w.engine_next[COMPUTE_ENGINE])


@piece
def _in_may_start(w: Workspace, item: int) -> bool:
    """Whether compute has come to where the copy in starts, the bytes that it takes are released, and its content is on the
    host."""
    start, behind = w.in_start[item], w.in_after[item]
    if start > w.engine_next[COMPUTE_ENGINE]:
        return False
    awaited, outs, out = w.awaited, w.tally[OUTS], w.engine_next[OUT_ENGINE]
    while awaited[RELEASED_OUTS] < outs and w.out_stop[w.out_order[awaited[RELEASED_OUTS]]] <= start:
        awaited[RELEASED_OUTS] += 1
    return bool(out >= awaited[RELEASED_OUTS] and (behind < 0 or out > w.chain[behind]))


@piece
def _exchange_may_start(w: Workspace, item: int) -> bool:
    """Whether what the exchange sums is made."""
    return bool(w.exchange_from[item] <= w.engine_next[COMPUTE_ENGINE])


@piece
def _start(a: Arrays, s: SearchPlan, w: Workspace, engine: int) -> None:
    """Begin the engine's next item if it is idle and the item may."""
    item = w.engine_next[engine]
    if w.engine_left[engine] >= 0 or item >= w.engine_items[engine]:
        return
    if engine == COMPUTE_ENGINE:
        if _step_may_start(w, item):
            w.engine_left[engine] = w.lasts[item] + (a.boundary if w.wait[item] else 0.0)
    elif engine == OUT_ENGINE:
        if _out_may_start(w, item):
            w.engine_left[engine] = float(a.out_ns[w.out_value[w.out_order[item]]])
    elif engine == IN_ENGINE:
        if _in_may_start(w, item):
            w.engine_left[engine] = float(a.in_ns[w.in_value[item]])
    elif _exchange_may_start(w, item):
        w.engine_left[engine] = float(a.exchange_ns[s.seq[w.exchange_at[item]]])


@piece
def _slow_down(a: Arrays, w: Workspace) -> None:
    """How much longer each engine takes beside those that are busy."""
    left, slow = w.engine_left, w.engine_slow
    step, out, in_ = left[COMPUTE_ENGINE] >= 0, left[OUT_ENGINE] >= 0, left[IN_ENGINE] >= 0
    copies = out and in_
    beside = 1.0 + (a.duplex if copies else 0.0) + (a.copy_compute if step else 0.0)
    slow[COMPUTE_ENGINE] = a.two_copies if copies else a.one_copy if out or in_ else 1.0
    if left[EXCHANGE_ENGINE] >= 0:
        slow[COMPUTE_ENGINE] += a.compute_exchange
        beside += a.copy_exchange
        slow[EXCHANGE_ENGINE] = 1.0 + (a.exchange_compute if step else 0.0) + (a.exchange_copy if out or in_ else 0.0)
    slow[OUT_ENGINE] = slow[IN_ENGINE] = beside


@piece
def _advance(w: Workspace, engine: int, elapsed: float) -> None:
    """Let the engine work for `elapsed` ns."""
    if w.engine_left[engine] >= 0:
        left = w.engine_left[engine] - elapsed / w.engine_slow[engine]
        if left <= ROUNDING_NS:
            left = IDLE
            w.engine_next[engine] += 1
        w.engine_left[engine] = left


@piece
def _unfinished(w: Workspace) -> bool:
    done, items = w.engine_next, w.engine_items
    return bool(
        done[COMPUTE_ENGINE] < items[COMPUTE_ENGINE]
        or done[OUT_ENGINE] < items[OUT_ENGINE]
        or done[IN_ENGINE] < items[IN_ENGINE]
        or done[EXCHANGE_ENGINE] < items[EXCHANGE_ENGINE]
    )


@inner
def run_engines(a: Arrays, s: SearchPlan, w: Workspace, limit: float) -> float:
    """Simulate the placed plan: the step time in ns, infinite on a deadlock; some time over `limit` once it is that."""
    _mark_boundaries(a, s, w)
    _prepare(s, w)
    now = 0.0
    while _unfinished(w) and now <= limit:
        # 1. Idle engines begin what they may.
        for engine in range(ENGINES):
            _start(a, s, w, engine)
        _slow_down(a, w)
        # 2. Go to where the first of the busy ones ends.
        elapsed = np.inf
        for engine in range(ENGINES):
            if w.engine_left[engine] >= 0:
                elapsed = min(elapsed, w.engine_left[engine] * w.engine_slow[engine])
        if elapsed == np.inf:
            return np.inf
        now += elapsed
        for engine in range(ENGINES):
            _advance(w, engine, elapsed)
    return now
