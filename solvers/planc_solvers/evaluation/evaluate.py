"""Exact evaluation of a plan, compiled: its instances, gaps, copies and memory, then placement and simulation."""

import numpy as np

from planc_solvers.evaluation.arrays import COMPUTED, CONSTANT, STATE, Arrays, SearchPlan, arrays_of, empty_plan
from planc_solvers.evaluation.copy_placement import order_outs, place_ins, place_outs
from planc_solvers.evaluation.engines import run_engines
from planc_solvers.evaluation.workspace import (
    COMPUTE,
    EXCESS,
    FETCHED,
    GAPS,
    HOME,
    IN_TOTAL,
    INS,
    KEPT,
    MAKESPAN,
    ON_HOST,
    OUT_TOTAL,
    OUTS,
    REPEATS,
    Workspace,
    workspace,
)
from planc_solvers.jit import fill, inner, outer
from planc_solvers.ready import TINY, Once


@inner
def _begin(a: Arrays, s: SearchPlan, w: Workspace) -> None:
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


@inner
def _scan(a: Arrays, s: SearchPlan, w: Workspace) -> bool:
    """Instances, gaps and copies of a plan; False when it does not compute the problem or has too many gaps."""
    _begin(a, s, w)
    length, tasks = s.length[0], a.duration.size
    seq, fetch, choice, lasts = s.seq, s.fetch, s.choice, w.lasts
    form_ptr, form_ns, deadline, read_ptr, reads = a.form_ptr, a.form_ns, a.deadline, a.read_ptr, a.reads
    write_ptr, writes, mutate_ptr, mutates = a.write_ptr, a.writes, a.mutate_ptr, a.mutates
    size, out_ns, in_ns, origin, swappable = a.size, a.out_ns, a.in_ns, a.origin, a.swappable
    first, start, end, write, host, out_of = w.first, w.start, w.end, w.write, w.host, w.out_of
    memory, repeats = w.memory, w.repeats
    gap_value, gap_from, gap_to, gap_slot, gap_kind = w.gap_value, w.gap_from, w.gap_to, w.gap_slot, w.gap_kind
    out_value, out_start, out_ready = w.out_value, w.out_start, w.out_ready
    in_value, in_need, in_after, in_floor = w.in_value, w.in_need, w.in_after, w.in_floor
    room = gap_value.size - 2 * size.size
    gaps = outs = ins = repeated = 0
    compute = out_total = in_total = 0
    for p in range(length):
        task = seq[p]
        if first[task] < 0:
            first[task] = p
        else:
            if deadline[task] < tasks and first[deadline[task]] >= 0:
                return False
            repeats[repeated] = p
            repeated += 1
        lasts[p] = form_ns[form_ptr[task] + choice[p]]
        compute += lasts[p]
        base = read_ptr[task]
        if gaps + read_ptr[task + 1] - base > room:
            return False
        for k in range(base, read_ptr[task + 1]):
            v = reads[k]
            absent = start[v] < 0
            fetched = absent
            if absent:
                if host[v] == 0:
                    return False
            elif p > end[v] and swappable[v]:
                fetched = (fetch[p, (k - base) >> 6] >> np.uint64((k - base) & 63)) & np.uint64(1) != np.uint64(0)
            kind = FETCHED if fetched else KEPT
            if end[v] == 0 and origin[v] != COMPUTED:
                kind = HOME
            if fetched or p > end[v] or kind == HOME:
                gap_value[gaps], gap_from[gaps], gap_to[gaps] = v, end[v], p
                gap_slot[gaps], gap_kind[gaps] = k - base, kind
                gaps += 1
            if fetched:
                if not absent:
                    if host[v] == 0:
                        out_value[outs] = v
                        out_start[outs] = max(start[v], write[v])
                        out_ready[outs] = max(end[v], out_start[outs])
                        out_of[v] = outs
                        host[v] = 1
                        outs += 1
                        out_total += out_ns[v]
                    memory[start[v]] += size[v]
                    memory[max(start[v], end[v])] -= size[v]
                in_value[ins], in_need[ins], in_after[ins], in_floor[ins] = v, p, out_of[v], end[v]
                ins += 1
                in_total += in_ns[v]
                start[v] = p
                _take_slot(a, w, v)
            end[v] = p + 1
        for k in range(mutate_ptr[task], mutate_ptr[task + 1]):
            host[mutates[k]] = 0
            write[mutates[k]] = p + 1
        for k in range(write_ptr[task], write_ptr[task + 1]):
            v = writes[k]
            if start[v] >= 0:
                memory[start[v]] += size[v]
                memory[max(start[v], end[v])] -= size[v]
            start[v] = end[v] = write[v] = p + 1
    w.tally[GAPS], w.tally[OUTS], w.tally[INS], w.tally[REPEATS] = gaps, outs, ins, repeated
    w.total[COMPUTE], w.total[OUT_TOTAL], w.total[IN_TOTAL] = compute, out_total, in_total
    _finish(a, s, w)
    return True


@inner
def _finish(a: Arrays, s: SearchPlan, w: Workspace) -> None:
    """Close every instance at the step's end, sending home what lives there."""
    length, home, origin, needed, size = s.length[0], s.home, a.origin, a.needed, a.size
    start, end, host, memory, write = w.start, w.end, w.host, w.memory, w.write
    gaps, outs = w.tally[GAPS], w.tally[OUTS]
    for v in range(size.size):
        output = needed[v] and origin[v] == COMPUTED
        if start[v] >= 0:
            stays = (origin[v] == STATE or origin[v] == CONSTANT) and home[v] == 0
            if output:
                stays = home[v] == 0 and host[v] == 0
                w.gap_value[gaps], w.gap_from[gaps], w.gap_to[gaps] = v, end[v], length
                w.gap_slot[gaps], w.gap_kind[gaps] = -1, HOME
                gaps += 1
            if stays:
                end[v] = length + 1
            elif home[v] and host[v] == 0:
                w.out_value[outs] = v
                w.out_start[outs] = max(start[v], write[v])
                w.out_ready[outs] = max(end[v], w.out_start[outs])
                w.total[OUT_TOTAL] += a.out_ns[v]
                _take_slot(a, w, v)
                outs += 1
            memory[start[v]] += size[v]
            memory[max(start[v], end[v])] -= size[v]
    w.tally[GAPS], w.tally[OUTS] = gaps, outs


@inner
def _accumulate(a: Arrays, s: SearchPlan, w: Workspace) -> None:
    seq, choice = s.seq, s.choice
    form_ptr, form_bytes = a.form_ptr, a.form_bytes
    memory, budget, length = w.memory, a.budget, s.length[0]
    held = 0.0
    excess = max(0.0, w.total[ON_HOST] - a.host_budget) * length
    for p in range(length):
        held += memory[p]
        memory[p] = held + form_bytes[form_ptr[seq[p]] + choice[p]]
        if memory[p] > budget:
            excess += memory[p] - budget
    w.total[EXCESS] = excess


@inner
def _compute_ns(a: Arrays, s: SearchPlan) -> float:
    seq, choice, form_ptr, form_ns = s.seq, s.choice, a.form_ptr, a.form_ns
    total = 0
    for p in range(s.length[0]):
        total += form_ns[form_ptr[seq[p]] + choice[p]]
    return float(total)


@inner
def evaluate_excess(a: Arrays, s: SearchPlan, w: Workspace) -> bool:
    """Fill `w` but for placement and simulation; False when the plan does not compute the problem."""
    if not _scan(a, s, w):
        return False
    _accumulate(a, s, w)
    return True


@outer
def evaluate_within(a: Arrays, s: SearchPlan, w: Workspace, price: float, limit: float) -> bool:
    """As `evaluate`, but stops early once makespan plus `price` a byte-position of excess is over `limit`.

    The makespan is then a lower bound of it, and what else `w` holds is incomplete.
    """
    if limit < np.inf:
        w.total[MAKESPAN], w.total[EXCESS] = _compute_ns(a, s), 0
        if w.total[MAKESPAN] > limit:
            return True
    if not evaluate_excess(a, s, w):
        return False
    limit -= price * w.total[EXCESS]
    w.total[MAKESPAN] = max(w.total[COMPUTE], w.total[OUT_TOTAL], w.total[IN_TOTAL])
    changes = a.boundary > 0 and a.form_ns.size > a.duration.size
    if w.total[MAKESPAN] > limit or (w.tally[OUTS] + w.tally[INS] == 0 and not changes):
        return True
    order_outs(s, w, a.boundary * float(1 << s.batch[0]), a)
    place_outs(a, s, w)
    place_ins(a, s, w)
    w.total[MAKESPAN] = run_engines(a, s, w, limit)
    return True


def evaluate(a: Arrays, s: SearchPlan, w: Workspace) -> bool:
    """Fill `w` for the plan `s`; False when it does not compute the problem.

    `w.total` then holds the excess (byte-positions over the budgets, before copies are placed;
    what is over the host's lasts throughout) and the makespan in ns;
    where the plan itself is over the budget, no instance in transit is held.
    """
    return evaluate_within(a, s, w, 0.0, np.inf)


@Once
def ready_evaluation() -> None:
    """Compile, or load, the evaluation."""
    tiny = arrays_of(TINY)
    evaluate(tiny, empty_plan(tiny), workspace(tiny))
