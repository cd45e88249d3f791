"""superneurons: liveness, a tensor cache and recomputation that minds its peak (Wang et al., 2018).

Wang, Ye, Zhao, Wu, Li, Song, Xu and Kraska, SuperNeurons: Dynamic GPU Memory Management for Training Deep Neural
Networks, PPoPP 2018.

*Recomputation.* Results of compute-intensive layers (convolutions, fully connected layers) are checkpoints; those of
the cheap layers between two of them, a segment, are dropped and made again. l_peak is the largest need of a single
layer. A segment whose results take no more is made again as a whole when first needed, and stays (speed-centric);
another one is made again for each layer of the backward pass that needs some of it, and dropped at once
(memory-centric).

*Tensor cache.* Checkpoints stay on the device while there is room. Where a step finds none, the checkpoint used least
recently is copied out, and fetched one layer before the backward pass needs it.

*Workspace.* Each step runs in its fastest form that fits what is then free.

The paper says little on networks that are no chains. A cheap result that recomputation in another segment reads would
pull that segment along, and its inputs in turn: one such crossing is allowed, results behind a second one (the outputs
of residual blocks) are checkpoints too. Where a step fits without recomputation or copies, nothing is given up.
"""

from collections.abc import Iterator

import numpy as np

from planc.enums import Direction
from planc.problem.problem import Problem
from planc.schedule.residency import memory_profile
from planc.schedule.schedule import Schedule, Transfer
from planc.schedule.solver import Candidate, SolveOptions
from planc_solvers.baselines.allocators import pool_bytes
from planc_solvers.baselines.replay import droppable, replayed
from planc_solvers.baselines.selection import first_fitting, with_allocator
from planc_solvers.baselines.training_step import PRODUCTS, backward_start, require_kinds
from planc_solvers.baselines.transfers import ahead, engine_order, gaps_across, layer_positions


class Superneurons:
    """Liveness alone, then with the tensor cache, then with recomputation as well: the first that fits."""

    def solve(self, problem: Problem, options: SolveOptions) -> Candidate:  # noqa: ARG002
        """Raises InfeasibleBudgetError when all three techniques exceed the budget, PolicyScopeError without layer
        kinds."""
        require_kinds(problem, "superneurons")
        answer = first_fitting("superneurons", problem, _schedules(problem))
        return with_allocator(answer, pool_bytes(problem, answer.schedule))


def _schedules(problem: Problem) -> Iterator[Schedule]:
    start = backward_start(problem)
    given = tuple(range(len(problem.tasks)))
    dropped, segment = _segments(problem, start)
    again = _recomputing(problem, start, dropped, segment)
    evictable = {v for v, p in enumerate(problem.producer) if p is not None and p < start and v not in dropped}
    for steps, values in ((given, set[int]()), (given, evictable), (again, evictable)):
        yield _with_workspaces(problem, Schedule(steps, _cached(problem, steps, values, start)))


def _segments(problem: Problem, start: int) -> tuple[frozenset[int], dict[int, int]]:
    """The values that are dropped, and the segment of every cheap value."""
    segment, index = dict[int, int](), 0
    crossed: dict[int, int] = {}
    checkpoints: set[int] = set()
    for task in range(start):
        info = problem.tasks[task]
        if info.phase == "update":
            continue
        if info.kind in PRODUCTS or not info.recomputable:
            index += 1
            continue
        depth = 0
        for value in info.reads:
            if value not in segment or value in checkpoints:
                continue
            crossing = segment[value] != index
            if crossing and crossed[value] >= 1:
                checkpoints.add(value)
            else:
                depth = max(depth, crossed[value] + crossing)
        for value in info.writes:
            segment[value], crossed[value] = index, depth
    return droppable(problem, segment.keys() - checkpoints, start), segment


def _recomputing(problem: Problem, start: int, dropped: frozenset[int], segment: dict[int, int]) -> tuple[int, ...]:
    """The sequence in which `dropped` values are made again, each segment by its size against l_peak."""
    peak = max(map(problem.entry_bytes, range(len(problem.tasks))))
    members: dict[int, list[int]] = {}
    for value in sorted(dropped):
        members.setdefault(segment[value], []).append(value)
    quick = {s for s, values in members.items() if sum(problem.values[v].bytes for v in values) <= peak}

    def together(value: int) -> list[int]:
        return members[segment[value]] if segment[value] in quick else []

    return replayed(problem, dropped, start, lambda v: segment[v] in quick, together)


def _cached(problem: Problem, steps: tuple[int, ...], values: set[int], start: int) -> tuple[Transfer, ...]:
    """Copies of the checkpoints that the cache evicts, the least recently used first, where a step is over the
    budget."""
    gaps = gaps_across(problem, steps, [v for v in values if problem.values[v].swappable], start)
    gaps = tuple(sorted(gaps, key=lambda gap: (gap.last, gap.value)))
    layers = layer_positions(problem, steps, start)
    fetch = [max(ahead(layers, gap.need), gap.last + 1) for gap in gaps]
    leanest = [min(form.working_bytes for form in problem.tasks[t].forms) for t in steps]
    usual = [problem.tasks[t].working_bytes for t in steps]
    memory = np.array(memory_profile(problem, Schedule(steps))) - usual + leanest
    copies: list[Transfer] = []
    evicted = [False] * len(gaps)
    oldest = 0
    for position in np.flatnonzero(memory > problem.budget_bytes).tolist():
        while oldest < len(gaps) and (evicted[oldest] or fetch[oldest] <= position):
            oldest += 1
        for index in range(oldest, len(gaps)):
            gap = gaps[index]
            if memory[position] <= problem.budget_bytes or gap.last >= position:
                break
            if evicted[index] or fetch[index] <= position:
                continue
            evicted[index] = True
            memory[position : fetch[index]] -= problem.values[gap.value].bytes
            copies.append(Transfer(gap.value, Direction.OUT, gap.last + 1, position))
            copies.append(Transfer(gap.value, Direction.IN, fetch[index], gap.need))
    return engine_order(copies)


def _with_workspaces(problem: Problem, schedule: Schedule) -> Schedule:
    """Every step in its fastest form that fits what is free, else in its leanest."""
    if not any(task.alternatives for task in problem.tasks):
        return schedule
    profile, choices = memory_profile(problem, schedule), []
    for position, task in enumerate(schedule.steps):
        forms = problem.tasks[task].forms
        room = problem.budget_bytes - (profile[position] - problem.tasks[task].working_bytes)
        order = sorted(range(len(forms)), key=lambda k: (forms[k].working_bytes > room, forms[k].duration_ns))
        fits = forms[order[0]].working_bytes <= room
        choices.append(order[0] if fits else min(order, key=lambda k: forms[k].working_bytes))
    return Schedule(schedule.steps, schedule.copies, schedule.host_start, tuple(choices))
