"""Rows of time: each stage lasts as long as its compute, slowed down by its copies, and as each copy engine needs."""

from itertools import pairwise
from math import inf

from planc.problem.problem import Problem
from planc_solvers.bounds.linear_model import Terms
from planc_solvers.bounds.relaxation import Coarse, minus


def add_time_rows(c: Coarse) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Add a variable T_k for the time of each stage k, whose sum is minimised, with its rows.

    T_k ≥ C_k + Σ time_t R_tk + Σ F (extra time of the form) + d (Σ in_v I_vk + Σ out_v O_vk),   C_k first executions,
    T_k ≥ Σ in_v I_vk,   T_k ≥ Σ out_v O_vk,
    where d is the part of a copy's time that compute loses beside it, at least. The variables, and the rows of the copies.
    """
    base, drag = max(c.problem.base_duration_ns, 1), _least_drag(c.problem)
    least = [least_ns(c.problem, task) for task in range(len(c.problem.tasks))]
    ends = [0, *c.critical, len(c.problem.tasks)]
    compute = [sum(least[a:b]) / base for a, b in pairwise(ends)]
    work, ins, outs = _work(c, least, base), _copies_in(c, base), _copies_out(c, base)
    time, copy_rows = list[int](), list[int]()
    for k in range(c.stages.count):
        time.append(c.model.variable(compute[k], inf, cost=1.0))
        dragged = [(x, -w * drag) for x, w in ins[k] + outs[k]] if drag else []
        c.model.row([(time[k], 1.0), *minus(work[k]), *dragged], lower=compute[k])
        copy_rows += [c.model.row([(time[k], 1.0), *minus(some)], lower=0.0) for some in (ins[k], outs[k]) if some]
    return tuple(time), tuple(copy_rows)


def _work(c: Coarse, least: list[int], base: int) -> list[Terms]:
    """By stage: recomputations, and what the forms of critical tasks take beyond their fastest."""
    work: list[Terms] = [[] for _ in range(c.stages.count)]
    for (task, k), x in c.x.recomputed.items():
        work[k].append((x, least[task] / base))
    for (k, f), x in c.x.forms.items():
        critical = c.critical[k]
        extra = max(0, c.problem.tasks[critical].forms[f].duration_ns - least[critical])
        work[k + 1].append((x, extra / base))
    return work


def _copies_in(c: Coarse, base: int) -> list[Terms]:
    ins: list[Terms] = [[] for _ in range(c.stages.count)]
    for (value, k), x in c.x.copied_in.items():
        ins[k].append((x, c.problem.values[value].copy_in_ns / base))
    return ins


def _copies_out(c: Coarse, base: int) -> list[Terms]:
    outs: list[Terms] = [[] for _ in range(c.stages.count)]
    for (value, k), x in c.x.copied_out.items():
        outs[k].append((x, c.problem.values[value].copy_out_ns / base))
    return outs


def least_ns(problem: Problem, task: int) -> int:
    """Duration of `task` in its fastest form that the budget leaves room for, else in any."""
    forms = problem.tasks[task].forms
    held = problem.entry_bytes(task) - min(form.working_bytes for form in forms)
    fitting = [form.duration_ns for form in forms if held + form.working_bytes <= problem.budget_bytes]
    return min(fitting or (form.duration_ns for form in forms))


def _least_drag(problem: Problem) -> float:
    """Compute lost per unit of copy time: beside one copy, or, shared by two, beside both."""
    link = problem.contention
    return min(_lost(link.compute_one_copy_ppm), _lost(link.compute_two_copies_ppm) / 2)


def _lost(ppm: int) -> float:
    """Compute lost per unit of time during which copies slow it down by `ppm`."""
    return ppm / (1_000_000 + ppm)
