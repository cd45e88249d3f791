"""Moves that change the form in which steps run, compiled: see `planc.problem.problem.Alternative`."""

import numpy as np

from planc_solvers.evaluation.arrays import Arrays, SearchPlan
from planc_solvers.evaluation.workspace import Workspace
from planc_solvers.jit import inner, outer

MOST_SETTLED = 30
"""Most steps to either side that one move settles; the time of a move grows with it."""


@inner
def has_forms(a: Arrays) -> bool:
    """Whether any task offers a choice."""
    return bool(a.form_ns.size > a.duration.size)


@inner
def _settle(a: Arrays, s: SearchPlan, w: Workspace, begin: int, end: int) -> bool:
    """Let the steps in [begin, end) run in their fastest form that fits `w.memory`, else in their leanest."""
    seq, choice, memory, form_ptr, form_ns, form_bytes = s.seq, s.choice, w.memory, a.form_ptr, a.form_ns, a.form_bytes
    changed = False
    for p in range(begin, end):
        base, stop = form_ptr[seq[p]], form_ptr[seq[p] + 1]
        if stop == base + 1:
            continue
        room = a.budget - memory[p] + form_bytes[base + choice[p]]
        best = base
        for f in range(base + 1, stop):
            fits, best_fits = form_bytes[f] <= room, form_bytes[best] <= room
            better = form_ns[f] < form_ns[best] if fits and best_fits else form_bytes[f] < form_bytes[best]
            if better:
                best = f
        changed = changed or best - base != choice[p]
        choice[p] = best - base
    return changed


@outer
def settle(a: Arrays, s: SearchPlan, w: Workspace) -> None:
    """Give every step of `s`, whose evaluation is `w`, its fastest form that fits beside what is held there."""
    _settle(a, s, w, 0, s.length[0])


@inner
def choose(a: Arrays, s: SearchPlan, w: Workspace, focus: int) -> bool:
    """Change the form of the step at `focus`, or of a random one if that has no choice, or settle the steps around."""
    seq, form_ptr = s.seq, a.form_ptr
    position = focus
    for _ in range(20):
        if form_ptr[seq[position] + 1] > form_ptr[seq[position]] + 1:
            break
        position = np.random.randint(s.length[0])
    forms = form_ptr[seq[position] + 1] - form_ptr[seq[position]]
    if forms == 1:
        return False
    if np.random.random() < 0.3:
        reach = np.random.randint(1, MOST_SETTLED)
        return _settle(a, s, w, max(0, position - reach), min(s.length[0], position + reach))
    s.choice[position] = (s.choice[position] + np.random.randint(1, forms)) % forms
    return True
