"""Rows on when copies may run: not before what they copy is made, and not after it is read.

A stage's time row lets its copies use the whole stage. In any schedule the copies out of values made for the first time
in stage k after its first t tasks run in what is left of the stage after these t, and a value that is absent at the
stage's start, not recomputed and read by a first execution has been copied in while the rest of the stage from that
execution on was still to come. A copy engine makes one copy at a time, so with C the compute time of first executions,

    T_k  ≥  C(before and including t) + sum of out_ns O_vk           over the v made by t or later in the stage,
    T_k  ≥  C(t and later) + sum of in_ns (1 - P_v,k-1 - R_vk)^+     over the v read by t or earlier in the stage,

for each t of the stage: release dates and deadlines of single-machine scheduling. The sums are kept in running totals,
which keeps the rows short.
"""

from itertools import accumulate

from planc.problem.problem import Origin
from planc_solvers.bounds.relaxation import Coarse
from planc_solvers.bounds.time_rows import least_ns


def add_engine_rows(c: Coarse) -> None:
    """Add the rows of every stage."""
    base = max(c.problem.base_duration_ns, 1)
    ends = [0, *c.critical, len(c.problem.tasks)]
    for k in range(c.stages.count):
        tasks = range(ends[k], ends[k + 1])
        done = [0.0, *accumulate(least_ns(c.problem, task) / base for task in tasks)]
        _release_rows(c, k, tasks, done, base)
        _deadline_rows(c, k, tasks, done, base)


def _release_rows(c: Coarse, k: int, tasks: range, done: list[float], base: int) -> None:
    """`done[i]` is the compute time of the stage's first i tasks."""
    total: int | None = None
    for task in reversed(tasks):
        made = [
            (x, -c.problem.values[v].copy_out_ns / base)
            for v in c.problem.tasks[task].writes
            if c.problem.values[v].origin is Origin.COMPUTED and (x := c.x.copied_out.get((v, k))) is not None
        ]
        if made:
            total = _running(c, total, made)
            c.model.row([(c.time[k], 1.0), (total, -1.0)], lower=done[task - tasks.start + 1])


def _deadline_rows(c: Coarse, k: int, tasks: range, done: list[float], base: int) -> None:
    total: int | None = None
    seen: set[int] = set()
    for task in tasks:
        late = []
        for value in c.problem.accesses[task]:
            if value not in seen and (value, k) in c.x.copied_in and c.must_return(value, k):
                absent = c.model.variable(0.0, 1.0)
                others = [term for term in c.supply(value, k) if term[0] != c.x.copied_in[value, k]]
                c.model.row([(absent, 1.0), *others], lower=1.0)
                late.append((absent, -c.problem.values[value].copy_in_ns / base))
            seen.add(value)
        if late:
            total = _running(c, total, late)
            c.model.row([(c.time[k], 1.0), (total, -1.0)], lower=done[-1] - done[task - tasks.start])


def _running(c: Coarse, total: int | None, terms: list[tuple[int, float]]) -> int:
    """A new total of at least `total` and `terms`, whose weights are negative; its variable."""
    most = -sum(weight * c.model.upper[x] for x, weight in terms)
    more = c.model.variable(0.0, most + (0.0 if total is None else c.model.upper[total]))
    before = [] if total is None else [(total, -1.0)]
    c.model.row([(more, 1.0), *before, *terms], lower=0.0)
    return more
