"""A point of the coarse model → a plan: what is absent at a critical task is recomputed just in time or fetched."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from planc.problem.problem import Origin, Problem
from planc_solvers.bounds.relaxation import Coarse
from planc_solvers.evaluation.arrays import Arrays, SearchPlan, empty_plan
from planc_solvers.evaluation.schedule_conversion import adapted

Point = npt.NDArray[np.float64]


class _Writer:
    """Appends steps to a plan, recomputing or fetching what was given up."""

    def __init__(self, problem: Problem, arrays: Arrays) -> None:
        self.problem = problem
        self.plan = empty_plan(arrays)
        self.plan.length[0] = 0
        self.gone: set[int] = set()
        self.away: set[int] = set()

    def run(self, task: int) -> None:
        """Append `task` after whatever must be recomputed for it."""
        for repeat in self._repeats(task):
            self._append(repeat)
        self._append(task)

    def _append(self, task: int) -> None:
        position = int(self.plan.length[0])
        self.plan.seq[position] = task
        for slot, value in enumerate(self.problem.accesses[task]):
            if value in self.away:
                self.away.discard(value)
                self.plan.fetch[position, slot >> 6] |= np.uint64(1) << np.uint64(slot & 63)
        self.gone.difference_update(self.problem.tasks[task].writes)
        self.plan.length[0] = position + 1

    def _repeats(self, task: int) -> list[int]:
        """The recomputations that `task` needs, inputs first; none when the plan has no room left for them."""
        found: dict[int, None] = {}
        stack = [task]
        while stack:
            for value in self.problem.accesses[stack.pop()]:
                producer = self.problem.producer[value]
                if value in self.gone and producer is not None and producer not in found:
                    found[producer] = None
                    stack.append(producer)
        room = self.plan.seq.size - int(self.plan.length[0]) - len(self.problem.tasks)
        return sorted(found) if len(found) < room else []


def decode(coarse: Coarse, problem: Problem, arrays: Arrays, point: Point, threshold: float = 0.5) -> SearchPlan:
    """The plan that gives up, at each critical task, what is less than `threshold` present there.

    `problem`, with its `arrays`, may be the coarse model's problem `reduced`.
    """
    writer = _Writer(problem, arrays)
    for value, rho in coarse.x.resident.items():
        writer.plan.home[value] = coarse.swappable(value) and point[rho] < threshold
    stage = {task: k for k, task in enumerate(coarse.critical)}
    by_stage: list[list[int]] = [[] for _ in coarse.critical]
    for value, k in coarse.x.present:
        by_stage[k].append(value)
    for task in range(len(problem.tasks)):
        if task in stage:
            for value in by_stage[stage[task]]:
                if point[coarse.x.present[value, stage[task]]] < threshold:
                    _give_up(coarse, writer, point, value, stage[task])
        writer.run(task)
    return adapted(arrays, writer.plan)


def _give_up(coarse: Coarse, writer: _Writer, point: Point, value: int, k: int) -> None:
    """Drop `value` at critical task k, to be fetched or recomputed, whichever the point does more from there on."""
    producer, (fetching, repeating) = coarse.problem.producer[value], coarse.returns(value, k)
    copies, repeats = point[fetching].sum(), point[repeating].sum()
    repeatable = producer is not None and coarse.problem.tasks[producer].recomputable
    if coarse.swappable(value) and (copies >= repeats or not repeatable):
        writer.away.add(value)
    elif repeatable:
        writer.gone.add(value)


def give_up_all(problem: Problem, arrays: Arrays, fetch: Callable[[int], bool]) -> SearchPlan:
    """The plan without recomputation that fetches every swappable value chosen by `fetch` for each of its accesses."""
    plan = empty_plan(arrays)
    chosen = {v for v, info in enumerate(problem.values) if info.swappable and fetch(v)}
    for task, accessed in enumerate(problem.accesses):
        for slot, value in enumerate(accessed):
            if value in chosen:
                plan.fetch[task, slot >> 6] |= np.uint64(1) << np.uint64(slot & 63)
    for value in chosen:
        origin, needed = problem.values[value].origin, problem.values[value].needed_after_step
        plan.home[value] = origin is not Origin.COMPUTED or needed
    return plan
