"""Placement of copies, compiled: a static plan in two passes over the positions.

Forward, every copy out starts as soon as its content exists and its release is delayed until the copy is done;
backward, every copy in claims its bytes as early as memory permits. A value with no room for either is copied while the
step waits (start = stop), so a plan whose dropped gaps fit the budget always has a schedule.
"""

from planc_solvers.evaluation.arrays import Arrays, SearchPlan
from planc_solvers.evaluation.workspace import INS, OUTS, Workspace
from planc_solvers.jit import fill, inner


@inner
def order_outs(s: SearchPlan, w: Workspace, batch: float, a: Arrays) -> None:
    """Engine order by release, starts non-decreasing; with a price on boundaries, small copies start together.

    `w.chain` then holds the rank of each copy out.
    """
    out_start, out_ready, out_order, bucket, chain = w.out_start, w.out_ready, w.out_order, w.bucket, w.chain
    length = s.length[0]
    fill(bucket, length + 1, -1)
    for i in range(w.tally[OUTS] - 1, -1, -1):
        chain[i] = bucket[out_ready[i]]
        bucket[out_ready[i]] = i
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
    for q in range(n):
        chain[out_order[q]] = q
    if batch > 0:
        _batch_outs(w, batch, a)


@inner
def _batch_outs(w: Workspace, batch: float, a: Arrays) -> None:
    out_start, out_value, out_order, out_ns = w.out_start, w.out_value, w.out_order, a.out_ns
    q = 0
    while q < w.tally[OUTS]:
        amount = float(out_ns[out_value[out_order[q]]])
        e = q + 1
        while e < w.tally[OUTS] and amount < batch:
            amount += out_ns[out_value[out_order[e]]]
            e += 1
        for k in range(q, e):
            out_start[out_order[k]] = out_start[out_order[e - 1]]
        q = e


@inner
def place_outs(a: Arrays, s: SearchPlan, w: Workspace) -> None:
    """Forward pass: release each copied-out instance once it is copied, waiting for that only if its bytes are needed.

    With a price on boundaries, instances are released together where bytes are needed, or where one comes back in; then
    a batch that would have started later starts too.
    """
    size, out_ns, lasts = a.size, a.out_ns, w.lasts
    memory, clock, stall, out_value, out_start, out_ready, out_stop, out_done, out_order, in_need, in_after, chain = (
        w.memory,
        w.clock,
        w.stall,
        w.out_value,
        w.out_start,
        w.out_ready,
        w.out_stop,
        w.out_done,
        w.out_order,
        w.in_need,
        w.in_after,
        w.chain,
    )
    length, outs, ins, budget, slow, lazy = (
        s.length[0],
        w.tally[OUTS],
        w.tally[INS],
        a.budget,
        a.one_copy,
        a.boundary > 0,
    )
    back = 0
    returned = -1
    now = 0.0
    engine = 0.0
    held = 0.0
    head = 0
    tail = 0
    ready = 0
    for p in range(length):
        clock[p] = now
        stall[p] = 0.0
        while ready < outs and out_ready[out_order[ready]] <= p:
            held += size[out_value[out_order[ready]]]
            ready += 1
        while back < ins and in_need[back] <= p:
            if in_after[back] >= 0:
                returned = max(returned, chain[in_after[back]])
            back += 1
        if memory[p] + held > budget or returned >= tail:
            for k in range(tail, ready):
                out_start[out_order[k]] = min(out_start[out_order[k]], p)
        while tail < ready and out_start[out_order[tail]] <= p:
            i = out_order[tail]
            engine = max(engine, clock[out_start[i]]) + out_ns[out_value[i]]
            out_done[i] = engine
            tail += 1
        if head < tail and (not lazy or memory[p] + held > budget or returned >= head):
            while head < tail and (memory[p] + held > budget or returned >= head or out_done[out_order[head]] <= now):
                i = out_order[head]
                if out_done[i] > now:
                    stall[p] += out_done[i] - now
                    now = out_done[i]
                out_stop[i] = p
                held -= size[out_value[i]]
                head += 1
        now += lasts[p] * (slow if engine > now else 1.0)
    while head < outs:
        out_stop[out_order[head]] = length
        head += 1
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


@inner
def place_ins(a: Arrays, s: SearchPlan, w: Workspace) -> None:
    """Backward pass: claim the bytes of each copy in as early as memory permits, in the order of need."""
    size, in_ns, lasts = a.size, a.in_ns, w.lasts
    memory, stall, in_value, in_need, in_start, in_done, in_floor, in_after, out_stop = (
        w.memory,
        w.stall,
        w.in_value,
        w.in_need,
        w.in_start,
        w.in_done,
        w.in_floor,
        w.in_after,
        w.out_stop,
    )
    length, ins, budget, slow = s.length[0], w.tally[INS], a.budget, a.one_copy
    later = 0.0
    engine = 0.0
    held = 0.0
    head = ins - 1
    tail = head
    for p in range(length - 1, -1, -1):
        if head > tail and memory[p] + held > budget:
            while head > tail and (memory[p] + held > budget or in_done[head] <= later):
                later = max(later, in_done[head])
                in_start[head] = p + 1
                held -= size[in_value[head]]
                head -= 1
        later += lasts[p] * (slow if engine > later else 1.0) + stall[p]
        while tail >= 0 and in_need[tail] == p:
            engine = max(engine, later) + in_ns[in_value[tail]]
            in_done[tail] = engine
            held += size[in_value[tail]]
            tail -= 1
    while head >= 0:
        in_start[head] = 0
        head -= 1
    latest = 0
    for i in range(ins):
        start = max(in_start[i], in_floor[i])
        if in_after[i] >= 0:
            start = max(start, out_stop[in_after[i]])
        latest = max(latest, start)
        in_start[i] = latest
    _await_ins(a, w)


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
