"""Rows of memory: what is on the device at the critical tasks and at the step's ends, and what is ever on the host."""

from planc.problem.problem import Origin
from planc_solvers.bounds.linear_model import Terms
from planc_solvers.bounds.relaxation import Coarse


def add_form_variables(c: Coarse) -> None:
    """A critical task with a choice of forms runs in one of them:  Σ F_kf = 1."""
    for k, task in enumerate(c.critical):
        forms = c.problem.tasks[task].forms
        if len(forms) > 1:
            for f in range(len(forms)):
                c.x.forms[k, f] = c.model.variable(0.0, 1.0)
            c.model.row([(c.x.forms[k, f], 1.0) for f in range(len(forms))], lower=1.0, upper=1.0)


def add_memory_rows(c: Coarse) -> tuple[int, ...]:
    """Rows of the device, scaled by its budget B; their numbers."""
    rows = [_critical_row(c, k, task) for k, task in enumerate(c.critical)]
    return (*rows, _ends_row(c)) if c.x.resident else tuple(rows)


def _critical_row(c: Coarse, k: int, task: int) -> int:
    """Σ bytes_v P_vk + Σ F_kf (working bytes of form f - least)  ≤  B - least - bytes of what else the task accesses."""
    problem, budget = c.problem, c.problem.budget_bytes
    forms = problem.tasks[task].forms
    least = min(form.working_bytes for form in forms)
    inside = sum(problem.values[v].bytes for v in problem.accesses[task] if (v, k) not in c.x.present)
    terms = [(x, problem.values[v].bytes / budget) for (v, q), x in c.x.present.items() if q == k]
    terms.extend((c.x.forms[k, f], (forms[f].working_bytes - least) / budget) for q, f in c.x.forms if q == k)
    return c.model.row(terms, upper=(budget - least - inside) / budget)


def _ends_row(c: Coarse) -> int:
    """What is resident at the step's ends is there with the first task:  Σ bytes_v ρ_v ≤ B - what else that task needs."""
    problem, budget, resident = c.problem, c.problem.budget_bytes, c.x.resident
    begin = problem.entry_bytes(0) - sum(problem.values[v].bytes for v in problem.accesses[0] if v in resident)
    terms = [(x, problem.values[v].bytes / budget) for v, x in resident.items()]
    return c.model.row(terms, upper=(budget - begin) / budget)


def add_host_row(c: Coarse) -> tuple[int, ...]:
    """Every value that is ever on the host has a slot of its own there; H is the host's budget.

    Σ bytes_v Σ O_vq over computed v + Σ bytes_v S_v over state and constants  ≤  H,  where S_v ≥ 1 - ρ_v and S_v ≥ 1 - P_vk
    for all k: these are on the host when the step begins and ends, or when they are absent in between. Batch values are not
    counted.
    """
    if c.problem.host_budget_bytes is None:
        return ()
    limit = max(c.problem.host_budget_bytes, 1)
    absent: dict[int, list[int]] = {v: [x] for v, x in c.x.resident.items() if c.swappable(v)}
    for (value, _), x in c.x.present.items():
        if value in absent:
            absent[value].append(x)
    terms: Terms = []
    for value, info in enumerate(c.problem.values):
        part = c.problem.host_bytes(value) / limit
        if info.origin is Origin.COMPUTED:
            terms.extend((x, part) for x, _ in c.outs(value, 0, c.stages.last))
        elif value in absent:
            slot = c.model.variable(0.0, 1.0)
            terms.append((slot, part))
            for x in absent[value]:
                c.model.row([(slot, 1.0), (x, 1.0)], lower=1.0)
    return (c.model.row(terms, upper=1.0),)
