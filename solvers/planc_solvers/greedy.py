"""A first plan for tight budgets without a link: evict when memory runs out, recompute on demand, compiled.

The online rule of dynamic tensor rematerialization (Kirisame et al., ICLR 2021) with the future known: of the values on
the device the one is evicted whose recomputation, with what it needs that is gone too, costs least for its bytes and
for the time until it is read next.
"""

from collections.abc import Iterator

import numpy as np

from planc_solvers.arrays import Arrays, Bytes8, Ints, Plan, empty_plan
from planc_solvers.compiled import inner, outer
from planc_solvers.workspace import Floats

WEIGHTS = ((1.0, 0.5), (1.0, 1.0), (0.5, 0.5), (0.5, 1.0), (1.0, 2.0), (1.0, 0.0))
"""Powers of a value's bytes and of its wait by which the cost of its recomputation is divided, tried in turn."""

MOST_REPEATS = 400
"""Recomputations for the sake of one task after which the rule is going round in circles."""


def greedy_plans(a: Arrays) -> Iterator[Plan]:
    """Plans within the budget, one for each of the `WEIGHTS` for which eviction finds one."""
    readers = _readers(a)
    for size, wait in WEIGHTS:
        plan = empty_plan(a)
        if _greedy(a, plan, *readers, size, wait):
            yield plan


def _readers(a: Arrays) -> tuple[Ints, Ints]:
    """For each value v its reading tasks in order: found[ptr[v]:ptr[v + 1]]."""
    tasks = np.repeat(np.arange(a.duration.size), np.diff(a.read_ptr))
    order = np.argsort(a.reads, kind="stable")
    return np.searchsorted(a.reads[order], np.arange(a.size.size + 1)).astype(np.int64), tasks[order]


@inner
def _recomputation(a: Arrays, value: int, held: Bytes8, seen: Ints, stamp: int, stack: Ints) -> float:
    """Cost of making `value` again: its task and those whose results it needs and that are gone."""
    stack[0] = a.producer[value]
    seen[stack[0]] = stamp
    count, cost = 1, 0.0
    while count > 0:
        count -= 1
        task = stack[count]
        if a.recomputable[task] == 0:
            return np.inf
        cost += a.duration[task]
        for k in range(a.read_ptr[task], a.read_ptr[task + 1]):
            made = a.producer[a.reads[k]]
            if made >= 0 and held[a.reads[k]] == 0 and seen[made] != stamp:
                seen[made] = stamp
                stack[count] = made
                count += 1
    return cost


@inner
def _next_task(a: Arrays, now: int, held: Bytes8, wanted: Ints, seen: Ints, stamp: int, stack: Ints) -> int:
    """The first of the tasks to run so that `now` finds its inputs; stamps `wanted` of all that they read."""
    stack[0] = now
    seen[now] = stamp
    count, first = 1, now
    while count > 0:
        count -= 1
        task = stack[count]
        first = min(first, task)
        for k in range(a.read_ptr[task], a.read_ptr[task + 1]):
            v = a.reads[k]
            wanted[v] = stamp
            if held[v] == 0 and seen[a.producer[v]] != stamp:
                seen[a.producer[v]] = stamp
                stack[count] = a.producer[v]
                count += 1
    return first


@inner
def _evict(
    a: Arrays, now: int, task: int, held: Bytes8, wanted: Ints, ptr: Ints, readers: Ints, seen: Ints, stack: Ints,
    powers: Floats,
) -> int:  # fmt: skip
    """The value to evict before `task`, which runs for the sake of `now`; -1 when everything held is its input."""
    best, lowest, stamp = -1, np.inf, wanted[wanted.size - 1]
    for v in range(held.size):
        if held[v] == 0 or a.size[v] == 0 or a.producer[v] < 0:
            continue
        needed = False
        for k in range(a.read_ptr[task], a.read_ptr[task + 1]):
            needed = needed or a.reads[k] == v
        if needed:
            continue
        at = np.searchsorted(readers[ptr[v] : ptr[v + 1]], now)
        wait = readers[ptr[v] + at] - now + 1.0 if at < ptr[v + 1] - ptr[v] else 0.0
        if wait == 0 and a.needed[v]:
            continue
        soon = wanted[v] == stamp
        score = 0.0
        if wait > 0 or soon:
            seen[seen.size - 1] += 1
            score = _recomputation(a, v, held, seen, seen[seen.size - 1], stack)
            score /= a.size[v] ** powers[0] * (1.0 if soon else wait) ** powers[1]
            if soon and score < np.inf:
                score += 1e18
        if score < lowest:
            best, lowest = v, score
    return best


@outer
def _greedy(a: Arrays, s: Plan, ptr: Ints, readers: Ints, by_size: float, by_wait: float) -> bool:
    """Write the plan into `s`; False when eviction finds none within its room."""
    tasks, values = a.duration.size, a.size.size
    held, wanted = np.zeros(values, np.uint8), np.zeros(values + 1, np.int64)
    seen, stack, powers = np.zeros(tasks + 1, np.int64), np.zeros(tasks + 1, np.int64), np.array([by_size, by_wait])
    done = np.zeros(tasks, np.uint8)
    used, length = 0, 0
    for v in range(values):
        if a.producer[v] < 0:
            held[v] = 1
            used += a.size[v]
    for now in range(tasks):
        task, repeats = -1, 0
        while task != now:
            seen[tasks] += 1
            wanted[values] = seen[tasks]
            task = _next_task(a, now, held, wanted, seen, seen[tasks], stack)
            repeats += 1
            late = a.deadline[task] < tasks and done[a.deadline[task]]
            if task != now and (a.recomputable[task] == 0 or late or repeats > MOST_REPEATS):
                return False
            while used + a.form_bytes[a.form_ptr[task]] > a.budget:
                v = _evict(a, now, task, held, wanted, ptr, readers, seen, stack, powers)
                if v < 0:
                    return False
                held[v] = 0
                used -= a.size[v]
            if length >= s.seq.size - 64:
                return False
            s.seq[length] = task
            length += 1
            done[task] = 1
            for k in range(a.write_ptr[task], a.write_ptr[task + 1]):
                used += 0 if held[a.writes[k]] else a.size[a.writes[k]]
                held[a.writes[k]] = 1
    s.length[0] = length
    return True
