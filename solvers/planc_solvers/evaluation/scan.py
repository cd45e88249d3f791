"""What a plan does with its values, compiled: instances, gaps, copies and the memory held, step by step.

An *instance* is a stay of a value on the device, from where it is made or copied in to its last access. `start[v]` is
where the present one begins, -1 while there is none, and `end[v]` is the position behind its last access.
"""

import numpy as np

from planc_solvers.evaluation.arrays import COMPUTED, CONSTANT, STATE, Arrays, SearchPlan
from planc_solvers.evaluation.workspace import (
    COMPUTE,
    EXCHANGE_TOTAL,
    EXCHANGES,
    FETCHED,
    GAPS,
    HOME,
    IN_TOTAL,
    INS,
    KEPT,
    ON_HOST,
    OUT_TOTAL,
    OUTS,
    REPEATS,
    Workspace,
)
from planc_solvers.jit import fill, inner, piece


@inner
def _begin(a: Arrays, s: SearchPlan, w: Workspace) -> None:
    """The moment before the first step: what is not computed lies on the device or, at home there, on the host."""
    fill(w.memory, s.length[0] + 3, 0)
    fill(w.tally, w.tally.size, 0)
    fill(w.total, w.total.size, 0)
    fill(w.first, w.first.size, -1)
    fill(w.end, w.end.size, 0)
    fill(w.write, w.write.size, 0)
    fill(w.out_of, w.out_of.size, -1)
    host, slot, start, home, origin = w.host, w.slot, w.start, s.home, a.origin
    for v in range(origin.size):
        host[v] = slot[v] = 0
        start[v] = -1
        if origin[v] != COMPUTED:
            if home[v] == 0:
                start[v] = 0
            host[v] = home[v] != 0 or origin[v] != STATE
            if home[v]:
                _take_slot(a, w, v)


@inner
def _take_slot(a: Arrays, w: Workspace, v: int) -> None:
    """Count the value's slot on the host, once."""
    if w.slot[v] == 0:
        w.slot[v] = 1
        w.total[ON_HOST] += a.host_size[v]


@piece
def _run_task(a: Arrays, s: SearchPlan, w: Workspace, p: int) -> bool:
    """The step at `p` is a first execution or a repeat; False for a repeat that comes after the state it reads changed."""
    task, first = s.seq[p], w.first
    if first[task] < 0:
        first[task] = p
    else:
        late = a.deadline[task]
        if late < a.duration.size and first[late] >= 0:
            return False
        w.repeats[w.tally[REPEATS]] = p
        w.tally[REPEATS] += 1
    w.lasts[p] = a.form_ns[a.form_ptr[task] + s.choice[p]]
    return True


@piece
def _note_gap(w: Workspace, gap: int, v: int, p: int, slot: int, kind: int) -> None:
    """The gap of that number lies between the last access of `v` and the one by the step at `p`, in its `slot`."""
    w.gap_value[gap], w.gap_from[gap], w.gap_to[gap] = v, w.end[v], p
    w.gap_slot[gap], w.gap_kind[gap] = slot, kind


@piece
def _add_out(a: Arrays, w: Workspace, v: int) -> None:
    """Copy the present instance of `v` out: not before its content is written, released after its last access."""
    out = w.tally[OUTS]
    w.out_value[out] = v
    w.out_start[out] = max(w.start[v], w.write[v])
    w.out_ready[out] = max(w.end[v], w.out_start[out])
    w.total[OUT_TOTAL] += a.out_ns[v]
    w.tally[OUTS] = out + 1


@piece
def _add_in(a: Arrays, w: Workspace, v: int, p: int) -> None:
    """Copy `v` in for the step at `p`, after the copy out that brought it to the host and the last access before that."""
    number = w.tally[INS]
    w.in_value[number], w.in_need[number] = v, p
    w.in_after[number], w.in_floor[number] = w.out_of[v], w.end[v]
    w.total[IN_TOTAL] += a.in_ns[v]
    w.tally[INS] = number + 1


@piece
def _hold(a: Arrays, w: Workspace, v: int) -> None:
    """Count the bytes of the present instance, which ends, in `w.memory`; these are differences until they are summed."""
    w.memory[w.start[v]] += a.size[v]
    w.memory[max(w.start[v], w.end[v])] -= a.size[v]


@piece
def _access(a: Arrays, s: SearchPlan, w: Workspace, p: int, slot: int, v: int, gaps: int) -> int:
    """The step at `p` accesses `v` in its `slot` after so many gaps: how many then, -1 when the value is nowhere."""
    # 1. Is it fetched? It must be where it is absent; else the plan says so.
    absent = w.start[v] < 0
    if absent and w.host[v] == 0:
        return -1
    fetched = absent
    if not absent and p > w.end[v] and a.swappable[v]:
        fetched = (s.fetch[p, slot >> 6] >> np.uint64(slot & 63)) & np.uint64(1) != np.uint64(0)
    # 2. What the plan decided here is a gap, unless it was accessed just before.
    at_start = w.end[v] == 0 and a.origin[v] != COMPUTED
    if fetched or p > w.end[v] or at_start:
        _note_gap(w, gaps, v, p, slot, HOME if at_start else FETCHED if fetched else KEPT)
        gaps += 1
    # 3. A fetched value's instance ends, copied out if the host lacks this version, and another begins.
    if fetched:
        if not absent:
            if w.host[v] == 0:
                w.out_of[v] = w.tally[OUTS]
                w.host[v] = 1
                _add_out(a, w, v)
            _hold(a, w, v)
        _add_in(a, w, v, p)
        w.start[v] = p
        _take_slot(a, w, v)
    w.end[v] = p + 1
    return gaps


@inner
def _exchange(a: Arrays, w: Workspace, task: int, p: int) -> None:
    """The step at `p` awaits an exchange, which may run once what it reads is made and the one before it has begun."""
    number = w.tally[EXCHANGES]
    since = w.exchange_from[number - 1] if number else 0
    for k in range(a.read_ptr[task], a.read_ptr[task + 1]):
        since = max(since, w.write[a.reads[k]])
    w.exchange_from[number], w.exchange_at[number] = since, p
    w.total[EXCHANGE_TOTAL] += a.exchange_ns[task]
    w.tally[EXCHANGES] = number + 1


@piece
def _write(a: Arrays, s: SearchPlan, w: Workspace, p: int) -> None:
    """The step at `p` updates state, which the host then has in an old version, and makes new instances of its results."""
    task = s.seq[p]
    for k in range(a.mutate_ptr[task], a.mutate_ptr[task + 1]):
        w.host[a.mutates[k]] = 0
        w.write[a.mutates[k]] = p + 1
    for k in range(a.write_ptr[task], a.write_ptr[task + 1]):
        v = a.writes[k]
        if w.start[v] >= 0:
            _hold(a, w, v)
        w.start[v] = w.end[v] = w.write[v] = p + 1


@inner
def scan(a: Arrays, s: SearchPlan, w: Workspace) -> bool:
    """Instances, gaps and copies of a plan; False when it does not compute the problem or has too many gaps."""
    _begin(a, s, w)
    seq, read_ptr, reads = s.seq, a.read_ptr, a.reads
    room = w.gap_value.size - 2 * a.size.size
    gaps, compute = 0, 0
    for p in range(s.length[0]):
        if not _run_task(a, s, w, p):
            return False
        compute += w.lasts[p]
        base, stop = read_ptr[seq[p]], read_ptr[seq[p] + 1]
        if gaps + stop - base > room:
            return False
        for k in range(base, stop):
            gaps = _access(a, s, w, p, k - base, reads[k], gaps)
            if gaps < 0:
                return False
        if a.exchange_ns[seq[p]] > 0:
            _exchange(a, w, seq[p], p)
        _write(a, s, w, p)
    w.tally[GAPS], w.total[COMPUTE] = gaps, compute
    _finish(a, s, w)
    return True


@inner
def _finish(a: Arrays, s: SearchPlan, w: Workspace) -> None:
    """Close every instance at the step's end, sending home what lives there."""
    length = s.length[0]
    for v in range(a.size.size):
        if w.start[v] < 0:
            continue
        stays = (a.origin[v] == STATE or a.origin[v] == CONSTANT) and s.home[v] == 0
        if a.needed[v] and a.origin[v] == COMPUTED:
            stays = s.home[v] == 0 and w.host[v] == 0
            _note_gap(w, w.tally[GAPS], v, length, -1, HOME)
            w.tally[GAPS] += 1
        if stays:
            w.end[v] = length + 1
        elif s.home[v] and w.host[v] == 0:
            _add_out(a, w, v)
            _take_slot(a, w, v)
        _hold(a, w, v)
