"""Simulation of the three engines, compiled; the rules, and the result, are those of planc.schedule.simulate."""

import numpy as np

from planc_solvers.evaluation.arrays import Arrays, SearchPlan
from planc_solvers.evaluation.workspace import INS, OUTS, Workspace
from planc_solvers.jit import fill, inner


@inner
def _mark_boundaries(a: Arrays, s: SearchPlan, w: Workspace) -> None:
    wait, out_start, out_stop, in_start, in_stop = w.wait, w.out_start, w.out_stop, w.in_start, w.in_stop
    fill(wait, s.length[0] + 1, 0)
    for i in range(w.tally[OUTS]):
        wait[out_start[i]] = wait[out_stop[i]] = 1
    for i in range(w.tally[INS]):
        wait[in_start[i]] = wait[in_stop[i]] = 1
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


@inner
def run_engines(a: Arrays, s: SearchPlan, w: Workspace, limit: float) -> float:
    """Simulate the placed plan: the step time in ns, infinite on a deadlock; some time over `limit` once it is that."""
    out_ns, in_ns, lasts = a.out_ns, a.in_ns, w.lasts
    wait, out_value, out_start, out_stop, out_order, in_value, in_start, in_stop, in_after, chain = (
        w.wait,
        w.out_value,
        w.out_start,
        w.out_stop,
        w.out_order,
        w.in_value,
        w.in_start,
        w.in_stop,
        w.in_after,
        w.chain,
    )
    length, outs, ins = s.length[0], w.tally[OUTS], w.tally[INS]
    _mark_boundaries(a, s, w)
    boundary, one_copy, two_copies, duplex, beside = a.boundary, a.one_copy, a.two_copies, a.duplex, a.copy_compute
    step = 0
    out = 0
    in_ = 0
    stopped = 0
    due_out = 0
    due_in = 0
    left_step = -1.0
    left_out = -1.0
    left_in = -1.0
    now = 0.0
    while (step < length or out < outs or in_ < ins) and now <= limit:
        if left_step < 0 and step < length:
            while due_out < outs and out_stop[out_order[due_out]] <= step:
                due_out += 1
            while due_in < ins and in_stop[due_in] <= step:
                due_in += 1
            if out >= due_out and in_ >= due_in:
                left_step = lasts[step] + (boundary if wait[step] else 0.0)
        if left_out < 0 and out < outs and out_start[out_order[out]] <= step:
            left_out = float(out_ns[out_value[out_order[out]]])
        if left_in < 0 and in_ < ins and in_start[in_] <= step:
            while stopped < outs and out_stop[out_order[stopped]] <= in_start[in_]:
                stopped += 1
            behind = in_after[in_]
            if out >= stopped and (behind < 0 or out > chain[behind]):
                left_in = float(in_ns[in_value[in_]])
        busy_step, busy_out, busy_in = left_step >= 0, left_out >= 0, left_in >= 0
        if not (busy_step or busy_out or busy_in):
            return np.inf
        slow_step = 1.0
        if busy_out or busy_in:
            slow_step = two_copies if busy_out and busy_in else one_copy
        slow_copy = 1.0 + (duplex if busy_out and busy_in else 0.0) + (beside if busy_step else 0.0)
        delta = np.inf
        if busy_step:
            delta = min(delta, left_step * slow_step)
        if busy_out:
            delta = min(delta, left_out * slow_copy)
        if busy_in:
            delta = min(delta, left_in * slow_copy)
        now += delta
        if busy_step:
            left_step -= delta / slow_step
            if left_step <= 1e-6:
                left_step = -1.0
                step += 1
        if busy_out:
            left_out -= delta / slow_copy
            if left_out <= 1e-6:
                left_out = -1.0
                out += 1
        if busy_in:
            left_in -= delta / slow_copy
            if left_in <= 1e-6:
                left_in = -1.0
                in_ += 1
    return now
