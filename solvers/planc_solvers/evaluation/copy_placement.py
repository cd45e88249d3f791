"""Placement of copies, compiled: a static plan in two passes over the positions.

Forward, every copy out starts as soon as its content exists and its release is delayed until the copy is done;
backward, every copy in claims its bytes as early as memory permits. A value with no room for either is copied while the
step waits (start = stop), so a plan whose dropped gaps fit the budget always has a schedule.
"""

from planc_solvers.evaluation.arrays import Arrays, SearchPlan
from planc_solvers.evaluation.workspace import (
    CLAIMED,
    ENGINE_NS,
    EXCHANGE_NS,
    EXCHANGED,
    EXCHANGES,
    HELD_BYTES,
    INS,
    NEEDED,
    NOW_NS,
    OUTS,
    READY,
    RELEASED,
    RETURNED,
    STARTED,
    Workspace,
)
from planc_solvers.jit import fill, inner, piece


@inner
def order_outs(s: SearchPlan, w: Workspace, batch: float, a: Arrays) -> None:
    """Engine order by release, starts non-decreasing; with a price on boundaries, small copies start together.

    `w.chain` then holds the rank of each copy out.
    """
    out_start, out_ready, out_order, bucket, chain = w.out_start, w.out_ready, w.out_order, w.bucket, w.chain
    length = s.length[0]
    # 1. Chain the copies that are ready at one position, from the first of them in `bucket`.
    fill(bucket, length + 1, -1)
    for i in range(w.tally[OUTS] - 1, -1, -1):
        chain[i] = bucket[out_ready[i]]
        bucket[out_ready[i]] = i
    # 2. Take them position by position; none starts before the one that it follows.
    n = 0
    latest = 0
    for p in range(length + 1):
        i = bucket[p]
        while i >= 0:
            out_order[n] = i
            n += 1
            latest = max(latest, out_start[i])
            out_start[i] = latest
            i = chain[i]
    # 3. Number them in that order.
    for q in range(n):
        chain[out_order[q]] = q
    if batch > 0:
        _batch_outs(w, batch, a)


@inner
def _batch_outs(w: Workspace, batch: float, a: Arrays) -> None:
    """Let copies out, in their order, start with the last of as many as take `batch` ns together."""
    out_start, out_value, out_order, out_ns = w.out_start, w.out_value, w.out_order, a.out_ns
    begin = 0
    while begin < w.tally[OUTS]:
        amount = float(out_ns[out_value[out_order[begin]]])
        end = begin + 1
        while end < w.tally[OUTS] and amount < batch:
            amount += out_ns[out_value[out_order[end]]]
            end += 1
        for k in range(begin, end):
            out_start[out_order[k]] = out_start[out_order[end - 1]]
        begin = end


@piece
def _reset(w: Workspace) -> None:
    """Before a pass: nothing is held, and no copy has come up."""
    for slot in range(w.passed.size):
        w.passed[slot] = 0
    for slot in range(w.moment.size):
        w.moment[slot] = 0.0
    w.passed[RETURNED] = -1


@piece
def _is_short(a: Arrays, w: Workspace, p: int) -> bool:
    """Whether the bytes of copies that are held do not fit beside what the plan has at `p`."""
    return bool(w.memory[p] + w.moment[HELD_BYTES] > a.budget)


@piece
def _collect_ready(a: Arrays, w: Workspace, p: int) -> None:
    """Hold the bytes of copies out whose values are accessed for the last time by now."""
    order, passed = w.out_order, w.passed
    while passed[READY] < w.tally[OUTS] and w.out_ready[order[passed[READY]]] <= p:
        w.moment[HELD_BYTES] += a.size[w.out_value[order[passed[READY]]]]
        passed[READY] += 1


@piece
def _collect_returns(w: Workspace, p: int) -> None:
    """Up to which copy out they must be over, for what is copied in by now."""
    passed = w.passed
    while passed[NEEDED] < w.tally[INS] and w.in_need[passed[NEEDED]] <= p:
        behind = w.in_after[passed[NEEDED]]
        if behind >= 0:
            passed[RETURNED] = max(passed[RETURNED], w.chain[behind])
        passed[NEEDED] += 1


@piece
def _start_outs(a: Arrays, w: Workspace, p: int) -> None:
    """Start the copies that are due; when each will be done."""
    order, passed, moment = w.out_order, w.passed, w.moment
    while passed[STARTED] < passed[READY] and w.out_start[order[passed[STARTED]]] <= p:
        i = order[passed[STARTED]]
        moment[ENGINE_NS] = max(moment[ENGINE_NS], w.clock[w.out_start[i]]) + a.out_ns[w.out_value[i]]
        w.out_done[i] = moment[ENGINE_NS]
        passed[STARTED] += 1


@piece
def _release_outs(a: Arrays, w: Workspace, p: int) -> None:
    """Release what was copied: what is done, and after waiting for it what must be for memory or a return."""
    order, passed, moment = w.out_order, w.passed, w.moment
    while passed[RELEASED] < passed[STARTED]:
        i = order[passed[RELEASED]]
        must = _is_short(a, w, p) or passed[RETURNED] >= passed[RELEASED]
        if not must and w.out_done[i] > moment[NOW_NS]:
            break
        if w.out_done[i] > moment[NOW_NS]:
            w.stall[p] += w.out_done[i] - moment[NOW_NS]
            moment[NOW_NS] = w.out_done[i]
        w.out_stop[i] = p
        moment[HELD_BYTES] -= a.size[w.out_value[i]]
        passed[RELEASED] += 1


@piece
def _await_exchanges(a: Arrays, s: SearchPlan, w: Workspace, p: int) -> None:
    """Wait for the exchange that the step at `p` reads the sums of, alone on its engine."""
    passed, moment = w.passed, w.moment
    while passed[EXCHANGED] < w.tally[EXCHANGES] and w.exchange_at[passed[EXCHANGED]] <= p:
        begin = max(moment[EXCHANGE_NS], w.clock[w.exchange_from[passed[EXCHANGED]]])
        moment[EXCHANGE_NS] = begin + a.exchange_ns[s.seq[p]]
        w.stall[p] += max(0.0, moment[EXCHANGE_NS] - moment[NOW_NS])
        moment[NOW_NS] = max(moment[NOW_NS], moment[EXCHANGE_NS])
        passed[EXCHANGED] += 1


@inner
def place_outs(a: Arrays, s: SearchPlan, w: Workspace) -> None:
    """Forward pass: release each copied-out instance once it is copied, waiting for that only if its bytes are needed.

    With a price on boundaries, instances are released together where bytes are needed, or where one comes back in; then
    a batch that would have started later starts too.
    """
    order, passed, moment, lazy = w.out_order, w.passed, w.moment, a.boundary > 0
    _reset(w)
    for p in range(s.length[0]):
        w.clock[p] = moment[NOW_NS]
        w.stall[p] = 0.0
        # 1. What comes up at this position.
        _collect_ready(a, w, p)
        _collect_returns(w, p)
        # 2. Where bytes or a return are needed, all that is ready starts now, whatever its batch.
        if _is_short(a, w, p) or passed[RETURNED] >= passed[STARTED]:
            for k in range(passed[STARTED], passed[READY]):
                w.out_start[order[k]] = min(w.out_start[order[k]], p)
        _start_outs(a, w, p)
        # 3. Releases, with a price on boundaries only where there is need.
        if not lazy or _is_short(a, w, p) or passed[RETURNED] >= passed[RELEASED]:
            _release_outs(a, w, p)
        # 4. The step runs, more slowly beside a copy, once its exchange is over.
        _await_exchanges(a, s, w, p)
        moment[NOW_NS] += w.lasts[p] * (a.one_copy if moment[ENGINE_NS] > moment[NOW_NS] else 1.0)
    for k in range(passed[RELEASED], w.tally[OUTS]):
        w.out_stop[order[k]] = s.length[0]
    _spread_outs(a, s, w)


@inner
def _spread_outs(a: Arrays, s: SearchPlan, w: Workspace) -> None:
    """Add the bytes held from the last access of each copied-out instance to its release."""
    size = a.size
    memory, leaving, out_value, out_ready, out_stop = w.memory, w.leaving, w.out_value, w.out_ready, w.out_stop
    length = s.length[0]
    fill(leaving, length + 1, 0)
    for i in range(w.tally[OUTS]):
        leaving[out_ready[i]] += size[out_value[i]]
        leaving[out_stop[i]] -= size[out_value[i]]
    held = 0.0
    for p in range(length):
        held += leaving[p]
        memory[p] += held


@piece
def _claim_ins(a: Arrays, w: Workspace, p: int) -> None:
    """Let the copies that take up memory start after `p`: the latest ones that make room, and what is done by then."""
    passed, moment = w.passed, w.moment
    while passed[CLAIMED] > passed[NEEDED]:
        i = passed[CLAIMED]
        if not _is_short(a, w, p) and w.in_done[i] > moment[NOW_NS]:
            break
        moment[NOW_NS] = max(moment[NOW_NS], w.in_done[i])
        w.in_start[i] = p + 1
        moment[HELD_BYTES] -= a.size[w.in_value[i]]
        passed[CLAIMED] -= 1


@piece
def _need_ins(a: Arrays, w: Workspace, p: int) -> None:
    """Hold the bytes of the copies needed at `p`; how long before the step's end each must have started."""
    passed, moment = w.passed, w.moment
    while passed[NEEDED] >= 0 and w.in_need[passed[NEEDED]] == p:
        i = passed[NEEDED]
        moment[ENGINE_NS] = max(moment[ENGINE_NS], moment[NOW_NS]) + a.in_ns[w.in_value[i]]
        w.in_done[i] = moment[ENGINE_NS]
        moment[HELD_BYTES] += a.size[w.in_value[i]]
        passed[NEEDED] -= 1


@inner
def place_ins(a: Arrays, s: SearchPlan, w: Workspace) -> None:
    """Backward pass: claim the bytes of each copy in as early as memory permits, in the order of need.

    Times count from the step's end.
    """
    passed, moment = w.passed, w.moment
    _reset(w)
    passed[CLAIMED] = passed[NEEDED] = w.tally[INS] - 1
    for p in range(s.length[0] - 1, -1, -1):
        # 1. Copies needed later hold bytes here unless memory is short.
        if _is_short(a, w, p):
            _claim_ins(a, w, p)
        # 2. The step runs, and what waited before it for copies out and exchanges.
        moment[NOW_NS] += w.lasts[p] * (a.one_copy if moment[ENGINE_NS] > moment[NOW_NS] else 1.0) + w.stall[p]
        # 3. Copies needed by it.
        _need_ins(a, w, p)
    for i in range(passed[CLAIMED] + 1):
        w.in_start[i] = 0
    _settle_starts(w)
    _await_ins(a, w)


@piece
def _settle_starts(w: Workspace) -> None:
    """No copy in starts before the one that it follows, before its place is free, or before its content is on the host."""
    latest = 0
    for i in range(w.tally[INS]):
        latest = max(latest, w.in_start[i], w.in_floor[i])
        if w.in_after[i] >= 0:
            latest = max(latest, w.out_stop[w.in_after[i]])
        w.in_start[i] = latest


@inner
def _await_ins(a: Arrays, w: Workspace) -> None:
    """Await each copy in where it is needed; with a price on boundaries, with an earlier one.

    That one's place is shared if waiting there for both costs less than a boundary.
    """
    ins, in_ns, clock = w.tally[INS], a.in_ns, w.clock
    in_value, in_start, in_need, in_stop = w.in_value, w.in_start, w.in_need, w.in_stop
    engine = 0.0
    shared = -1
    for i in range(ins):
        engine = max(engine, clock[in_start[i]]) + in_ns[in_value[i]]
        if a.boundary <= 0 or shared < in_start[i] or engine > clock[shared] + a.boundary:
            shared = in_need[i]
        in_stop[i] = shared
