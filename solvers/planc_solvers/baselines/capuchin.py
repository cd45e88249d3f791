"""capuchin: swap what has time to travel first, then swap or recompute by what costs least (Peng et al., 2020).

Peng, Shi, Dai, Jin, Ma, Xiong, Yang and Qian, Capuchin: Tensor-based GPU Memory Management for Deep Learning, ASPLOS
2020. From a measured first step, each pair of consecutive accesses between which a tensor spans a moment of too much
memory is a candidate. Its *free time* is what lies between the end of its copy out and the latest start of its copy in.
Those with the most free time are swapped, as long as it is not negative: they cost nothing. For the rest, the time by
which a swap would be late competes with that of recomputing (from what is then resident), by bytes saved per second
lost. Copies in are triggered at the access that is about their duration ahead of their need.

A candidate's free time takes its copies to have the link to themselves, as in the paper; when the copies then share it,
each follows the one before, which is where the paper's feedback across steps ends up. If the schedule is over the
budget, decisions are made anew for less.
"""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from itertools import chain

import numpy as np

from planc.problem.problem import Problem
from planc.schedule.residency import memory_profile
from planc.schedule.schedule import Schedule, Transfer
from planc.schedule.solver import Candidate, SolveOptions
from planc_solvers.baselines.replay import chain_ns, droppable, replayed
from planc_solvers.baselines.selection import first_fitting
from planc_solvers.baselines.training_step import backward_start, saved_values
from planc_solvers.baselines.transfers import engine_order, gaps_across, travel

TARGETS = tuple(1 - k / 12 for k in range(9))
"""Parts of the budget for which it decides, one after the other until the schedule fits: recomputation makes peaks of
its own."""


class Capuchin:
    """Measured free times decide; the durations of the problem are the measurement."""

    def solve(self, problem: Problem, options: SolveOptions) -> Candidate:  # noqa: ARG002
        """Raises InfeasibleBudgetError when swapping and recomputing every candidate exceeds the budget."""
        keep = Schedule(tuple(range(len(problem.tasks))))
        plans = (
            _schedule(problem, int(problem.budget_bytes * share), waiting)
            for waiting in (False, True)
            for share in TARGETS
        )
        return first_fitting("capuchin", problem, chain([keep], plans))


@dataclass(frozen=True, slots=True)
class _Access:
    """A candidate: accesses of a value (tasks) around the backward pass's beginning, and its swap's free time (ns)."""

    value: int
    last: int
    need: int
    free_ns: int


def _schedule(problem: Problem, target: int, waiting: bool) -> Schedule:
    """The schedule of the decisions that bring the profile of the given order below `target` bytes.

    Copies out are awaited when they should be through; with `waiting`, right behind the last access, as Capuchin does
    when an allocation fails before.
    """
    start = backward_start(problem)
    swapped, dropped = _decisions(problem, start, target)
    steps = replayed(problem, droppable(problem, dropped, start), start)
    return Schedule(steps, _copies(problem, steps, swapped, start, waiting))


def _decisions(problem: Problem, start: int, target: int) -> tuple[set[int], set[int]]:
    """Values to swap and values to recompute."""
    tasks = problem.tasks
    ends = np.cumsum([task.duration_ns for task in tasks])
    memory = np.array(memory_profile(problem, Schedule(tuple(range(len(tasks))))))
    again = droppable(problem, [v for v, p in enumerate(problem.producer) if p is not None and p < start], start)
    open_ = [_access(problem, ends, s.value, s.last, s.need) for s in saved_values(problem, start)]
    open_ = [a for a in open_ if a.need > a.last + 1]
    swapped, dropped = set[int](), set[int]()

    def take(access: _Access, chosen: set[int]) -> None:
        chosen.add(access.value)
        memory[access.last + 1 : access.need] -= problem.values[access.value].bytes

    def helps(access: _Access) -> bool:
        return bool((memory[access.last + 1 : access.need] > target).any())

    for access in sorted(open_, key=lambda a: (-a.free_ns, a.value)):
        if memory.max() <= target or access.free_ns < 0:
            break
        if problem.values[access.value].swappable and helps(access):
            take(access, swapped)
    rest = [a for a in open_ if a.value not in swapped]
    late = {a.value: max(1, -a.free_ns) if problem.values[a.value].swappable else None for a in rest}
    while rest and memory.max() > target:
        made = {
            a.value: max(1, chain_ns(problem, a.value, frozenset(dropped) | {a.value}))
            for a in rest
            if a.value in again
        }
        costs = [(a, min(c for c in (late[a.value], made.get(a.value), 1 << 62) if c is not None)) for a in rest]
        costs.sort(key=lambda pair: (-problem.values[pair[0].value].bytes / pair[1], pair[0].value))
        taken = 0
        for access, cost in costs:
            if cost == 1 << 62 or memory.max() <= target or taken > len(costs) // 8:
                break
            if helps(access):
                take(access, dropped if made.get(access.value) == cost else swapped)
            rest.remove(access)
            taken += 1
        if not taken:
            break
    return swapped, dropped


def _access(problem: Problem, ends: np.ndarray, value: int, last: int, need: int) -> _Access:
    info = problem.values[value]
    idle = int(ends[need - 1] - ends[last]) if need > last + 1 else 0
    return _Access(value, last, need, idle - info.copy_out_ns - info.copy_in_ns)


def _copies(
    problem: Problem, steps: tuple[int, ...], swapped: set[int], start: int, waiting: bool
) -> tuple[Transfer, ...]:
    """Copies out follow each other behind the last accesses; copies in end just before the need and before the next
    one."""
    begin = np.concatenate([[0], np.cumsum([problem.tasks[t].duration_ns for t in steps])]).tolist()
    gaps = [g for g in gaps_across(problem, steps, swapped, start) if g.need > g.last + 1]
    gone, free = dict[int, int](), 0
    for gap in sorted(gaps, key=lambda g: (g.last, g.value)):
        free = max(free, begin[gap.last + 1]) + problem.values[gap.value].copy_out_ns
        gone[gap.value] = gap.last + 2 if waiting else bisect_left(begin, free)
    copies, taken = list[Transfer](), begin[-1]
    for gap in sorted(gaps, key=lambda g: (-g.need, g.value)):
        taken = min(taken, begin[gap.need]) - problem.values[gap.value].copy_in_ns
        out = gap.last + 1
        fetch = min(gap.need - 1, max(out, bisect_right(begin, taken) - 1))
        copies += travel(problem, gap, out, max(out, min(gone[gap.value], fetch)), fetch)
    return engine_order(copies)
