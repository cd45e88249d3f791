"""The smaller problem that the search works on: what is too small to be worth a copy stays where it is.

Every plan of the reduced problem is one of the whole problem; bounds are proved for the whole problem.
"""

from dataclasses import replace
from itertools import accumulate
from typing import NamedTuple

from planc.problem.bounds import minimum_budget
from planc.problem.problem import Origin, Problem, Task
from planc_solvers.evaluation.arrays import Arrays, arrays_of, deadlines


class SmallValues(NamedTuple):
    """What is kept on the device for being small, so that the search has fewer decisions to make."""

    budget_share: float = 2e-3
    """Together it takes at most this part of the budget: what it gives away of it."""
    room_share: float = 0.1
    """And of what the budget leaves above the smallest one, so that the plan which swaps everything else still fits."""


SMALL = SmallValues()


def reduced(problem: Problem) -> Problem:
    """`problem`, value by value, with its smallest values not swappable.

    State and constants that never leave the device are taken out of the tasks' accesses and out of the budget; no task
    that updates state remains recomputable.
    """
    small = _small(problem)
    values = tuple(replace(v, swappable=v.swappable and i not in small) for i, v in enumerate(problem.values))
    carried = (Origin.STATE, Origin.CONSTANT)
    pinned = {i for i, v in enumerate(values) if v.origin in carried and not v.swappable}
    budget = problem.budget_bytes - sum(values[i].bytes for i in pinned)
    if budget <= 0:
        return problem
    tasks = tuple(_without(problem, task, pinned) for task in problem.tasks)
    return replace(problem, tasks=tasks, values=values, budget_bytes=budget)


def reduced_arrays(whole: Problem, small: Problem) -> Arrays:
    """The arrays of the reduced problem `small`, whose tasks keep to the updates of state in the `whole`."""
    return replace(arrays_of(small), deadline=deadlines(whole))


def _small(problem: Problem) -> set[int]:
    room = problem.budget_bytes - minimum_budget(problem)[0]
    left = min(SMALL.budget_share * problem.budget_bytes, SMALL.room_share * room)
    found = set()
    for value in sorted(range(len(problem.values)), key=lambda v: problem.values[v].bytes):
        left -= problem.values[value].bytes
        if left < 0:
            break
        found.add(value)
    return found if _swapping_fits(problem, found) else set()


def _swapping_fits(problem: Problem, kept: set[int]) -> bool:
    """Whether the budget holds every task while `kept` and what cannot be swapped stay from first to last use."""
    tasks = len(problem.tasks)
    stays = {i for i, v in enumerate(problem.values) if i in kept or not v.swappable}
    change = [0] * (tasks + 2)
    for value in stays:
        made, whole = problem.producer[value], problem.values[value].origin in (Origin.STATE, Origin.CONSTANT)
        last = tasks if whole or problem.values[value].needed_after_step else max(problem.readers[value], default=-1)
        first = 0 if made is None else made + 1
        if first <= last:
            change[first] += problem.values[value].bytes
            change[last + 1] -= problem.values[value].bytes
    held = list(accumulate(change))
    for index in range(tasks):
        held[index] += problem.entry_bytes(index)
        held[index] -= sum(problem.values[v].bytes for v in problem.accesses[index] if v in stays)
    return max(held) <= problem.budget_bytes


def _without(problem: Problem, task: Task, pinned: set[int]) -> Task:
    updates = any(problem.values[v].origin is Origin.STATE for v in task.writes)
    return replace(
        task,
        reads=tuple(v for v in task.reads if v not in pinned),
        writes=tuple(v for v in task.writes if v not in pinned),
        recomputable=task.recomputable and not updates,
    )
