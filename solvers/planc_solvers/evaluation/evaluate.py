"""Exact evaluation of a plan, compiled: its instances, gaps, copies and memory, then placement and simulation."""

import numpy as np

from planc_solvers.evaluation.arrays import Arrays, SearchPlan, arrays_of, empty_plan
from planc_solvers.evaluation.copy_placement import order_outs, place_ins, place_outs
from planc_solvers.evaluation.engines import run_engines
from planc_solvers.evaluation.scan import scan
from planc_solvers.evaluation.workspace import (
    COMPUTE,
    EXCESS,
    EXCHANGE_TOTAL,
    EXCHANGES,
    IN_TOTAL,
    INS,
    MAKESPAN,
    ON_HOST,
    OUT_TOTAL,
    OUTS,
    Workspace,
    workspace,
)
from planc_solvers.jit import inner, outer
from planc_solvers.ready import TINY, Once


@inner
def _accumulate(a: Arrays, s: SearchPlan, w: Workspace) -> None:
    """Sum the differences in `w.memory` up to the bytes at each step, and what of them is over the budgets."""
    seq, choice, form_ptr, form_bytes = s.seq, s.choice, a.form_ptr, a.form_bytes
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
    """Time of all steps, each in its form."""
    seq, choice, form_ptr, form_ns = s.seq, s.choice, a.form_ptr, a.form_ns
    total = 0
    for p in range(s.length[0]):
        total += form_ns[form_ptr[seq[p]] + choice[p]]
    return float(total)


@inner
def evaluate_excess(a: Arrays, s: SearchPlan, w: Workspace) -> bool:
    """Fill `w` but for placement and simulation; False when the plan does not compute the problem."""
    if not scan(a, s, w):
        return False
    _accumulate(a, s, w)
    return True


@outer
def evaluate_within(a: Arrays, s: SearchPlan, w: Workspace, price: float, limit: float) -> bool:
    """As `evaluate`, but stops early once makespan plus `price` a byte-position of excess is over `limit`.

    The makespan is then a lower bound of it, and what else `w` holds is incomplete.
    """
    # 1. The time of the steps alone may be too much.
    if limit < np.inf:
        w.total[MAKESPAN], w.total[EXCESS] = _compute_ns(a, s), 0
        if w.total[MAKESPAN] > limit:
            return True
    # 2. So may the excess with the time of the busiest engine, which is the makespan where nothing is copied or exchanged.
    if not evaluate_excess(a, s, w):
        return False
    limit -= price * w.total[EXCESS]
    w.total[MAKESPAN] = max(w.total[COMPUTE], w.total[OUT_TOTAL], w.total[IN_TOTAL], w.total[EXCHANGE_TOTAL])
    changes = a.boundary > 0 and a.form_ns.size > a.duration.size
    if w.total[MAKESPAN] > limit or (w.tally[OUTS] + w.tally[INS] + w.tally[EXCHANGES] == 0 and not changes):
        return True
    # 3. Place the copies and let the engines run.
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
