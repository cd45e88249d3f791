"""capuchin: swap what has time to travel first, then swap or recompute by what costs least (Peng et al., 2020).

Peng, Shi, Dai, Jin, Ma, Xiong, Yang and Qian, Capuchin: Tensor-based GPU Memory Management for Deep Learning, ASPLOS
2020. From a measured first step, each pair of consecutive accesses between which a tensor spans a moment of too much
memory is a candidate. Its *free time* is what lies between the end of its copy out and the latest start of its copy in.
Those with the most free time are swapped, as long as it is not negative: they cost nothing. For the rest, the time by
which a swap would be late competes with that of recomputing (from what is then resident), by bytes saved per second
lost. Copies in are triggered at the access that is about their duration ahead of their need.

A candidate's free time takes its copies to have the link to themselves, as in the paper; when the copies then share it,
each follows the one before, which is where the paper's feedback across steps ends up. The computation waits for a copy
out only when it runs out of memory, and then for the earliest unfinished ones; copies in for which there is no memory yet
wait until there is. If the schedule is over the budget nevertheless, decisions are made anew for less.

Over a link that is slow beside the computation, free times promise more than it carries. So decisions are also made with
as many free swaps as it carries in the forward pass, all others costing both of their copies; the faster schedule is
taken, as the paper's feedback would.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from planc.clock import StoppableClock
from planc.problem.problem import Problem, Value
from planc.schedule.residency import memory_profile
from planc.schedule.schedule import Schedule
from planc.schedule.solver import Candidate, SolveOptions
from planc_solvers.baselines.replay import chain_ns, droppable, replayed
from planc_solvers.baselines.selection import fastest_way
from planc_solvers.baselines.training_step import Saved, backward_start, saved_values
from planc_solvers.baselines.transfers import Gap, engine_order, gaps_across, travel

TARGETS = tuple(1 - k / 12 for k in range(9))
"""Parts of the budget for which it decides, one after the other until the schedule fits: recomputation makes peaks of
its own."""

SECONDS_PER_TASK = 5e-5
"""Seconds that a task counts in each round of decisions, where work is counted."""


@dataclass(frozen=True, slots=True)
class _Access:
    """A candidate: accesses of a value (tasks) around the backward pass's beginning, and its swap's free time (ns)."""

    value: int
    last: int
    need: int
    free_ns: int


@dataclass(frozen=True, slots=True)
class _Measured:
    """The first step, in which everything is kept: where its backward pass begins (a task), bytes by task, the candidates,
    and the values that can be made again in the backward pass."""

    start: int
    memory: npt.NDArray[np.int64]
    accesses: tuple[_Access, ...]
    remakable: frozenset[int]


def _measured(problem: Problem, start: int) -> _Measured:
    ends = np.cumsum([task.duration_ns for task in problem.tasks])
    made = [v for v, producer in enumerate(problem.producer) if producer is not None and producer < start]
    return _Measured(
        start=start,
        memory=np.array(memory_profile(problem, Schedule(tuple(range(len(problem.tasks)))))),
        accesses=tuple(_access(problem, ends, s) for s in saved_values(problem, start) if s.need > s.last + 1),
        remakable=droppable(problem, made, start),
    )


def _access(problem: Problem, ends: np.ndarray, saved: Saved) -> _Access:
    info = problem.values[saved.value]
    idle = int(ends[saved.need - 1] - ends[saved.last])
    return _Access(saved.value, saved.last, saved.need, idle - info.copy_out_ns - info.copy_in_ns)


class Capuchin:
    """Measured free times decide; the durations of the problem are the measurement."""

    def solve(self, problem: Problem, options: SolveOptions) -> Candidate:
        """Raises InfeasibleBudgetError when swapping and recomputing every candidate, or all that was decided in time,
        exceeds the budget."""
        start = backward_start(problem)
        found = _measured(problem, start)
        forward_ns = sum(task.duration_ns for task in problem.tasks[:start])
        ends = options.clock.now() + max(options.time_limit_s, options.patience_s)
        ways = (_plans(problem, found, carried, options.clock, ends) for carried in (None, forward_ns))
        return fastest_way("capuchin", problem, ways)


def _plans(
    problem: Problem, found: _Measured, carried_ns: int | None, clock: StoppableClock, ends: float
) -> Iterator[Schedule]:
    """Keeping everything; then decisions, and within the time more of them for less and less memory, until nothing more can
    be decided."""
    yield Schedule(tuple(range(len(problem.tasks))))
    before = None
    for share in TARGETS:
        decisions = _decisions(problem, found, int(problem.budget_bytes * share), carried_ns)
        clock.spend(SECONDS_PER_TASK * len(problem.tasks))
        if decisions == before or (before is not None and clock.now() > ends):
            return
        yield _schedule(problem, found.start, *decisions)
        before = decisions


def _schedule(problem: Problem, start: int, swapped: set[int], dropped: set[int]) -> Schedule:
    """The schedule of the decisions within the budget, as far as waiting for copies achieves that."""
    steps = replayed(problem, droppable(problem, dropped, start), start)
    trips = _trips(problem, steps, swapped, start)
    _await(trips, np.array(memory_profile(problem, Schedule(steps))), problem.budget_bytes)
    copies = (copy for trip in trips for copy in travel(problem, trip.gap, trip.out, trip.gone, trip.fetch))
    return Schedule(steps, engine_order(copies))


def _decisions(problem: Problem, found: _Measured, target: int, carried_ns: int | None) -> tuple[set[int], set[int]]:
    """Values to swap and values to recompute, which bring the measured memory below `target` bytes; where `carried_ns` is
    given, free swaps' copies out take no longer."""
    memory, swapped, dropped, free_ns = found.memory.copy(), set[int](), set[int](), 0

    def take(access: _Access, chosen: set[int]) -> None:
        chosen.add(access.value)
        memory[access.last + 1 : access.need] -= problem.values[access.value].bytes

    def helps(access: _Access) -> bool:
        return bool((memory[access.last + 1 : access.need] > target).any())

    for access in sorted(found.accesses, key=lambda a: (-a.free_ns, a.value)):
        if memory.max() <= target or access.free_ns < 0:
            break
        value = problem.values[access.value]
        if carried_ns is not None and free_ns + value.copy_out_ns > carried_ns:
            break
        if value.swappable and helps(access):
            take(access, swapped)
            free_ns += value.copy_out_ns
    rest = [a for a in found.accesses if a.value not in swapped]
    late = {a.value: _late_ns(problem.values[a.value], a.free_ns, carried_ns) for a in rest}
    while rest and memory.max() > target:
        made = {
            a.value: max(1, chain_ns(problem, a.value, frozenset(dropped) | {a.value}))
            for a in rest
            if a.value in found.remakable
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


def _late_ns(value: Value, free_ns: int, carried_ns: int | None) -> int | None:
    """Time (ns) that a swap costs when no more are free: all of its copies where the link is busy; None where it cannot be
    swapped."""
    if not value.swappable:
        return None
    return max(1, -free_ns if carried_ns is None else value.copy_out_ns + value.copy_in_ns)


@dataclass(slots=True)
class _Trip:
    """A swap: positions before which its copy out is awaited and its copy in begins; it is away in between."""

    gap: Gap
    bytes: int
    gone: int
    fetch: int

    @property
    def out(self) -> int:
        """Where its copy out begins."""
        return self.gap.last + 1


def _trips(problem: Problem, steps: tuple[int, ...], swapped: set[int], start: int) -> list[_Trip]:
    """Copies out follow each other behind the last accesses, and are awaited when they should be through; copies in end
    just before the need and before the next one."""
    begin = np.concatenate([[0], np.cumsum([problem.tasks[t].duration_ns for t in steps])]).tolist()
    gaps = [g for g in gaps_across(problem, steps, swapped, start) if g.need > g.last + 1]
    gone, free = dict[int, int](), 0
    for gap in sorted(gaps, key=lambda g: (g.last, g.value)):
        free = max(free, begin[gap.last + 1]) + problem.values[gap.value].copy_out_ns
        gone[gap.value] = bisect_left(begin, free)
    trips, taken = list[_Trip](), begin[-1]
    for gap in sorted(gaps, key=lambda g: (-g.need, g.value)):
        info, out = problem.values[gap.value], gap.last + 1
        taken = min(taken, begin[gap.need]) - info.copy_in_ns
        fetch = min(gap.need - 1, max(out, bisect_right(begin, taken) - 1))
        trips.append(_Trip(gap, info.bytes, max(out, min(gone[gap.value], fetch)), fetch))
    return trips


def _await(trips: list[_Trip], memory: npt.NDArray[np.int64], budget: int) -> None:
    """Where `memory`, by position with everything resident, is over the budget: await the earliest unfinished copies out,
    then let copies in whose need is the latest begin later."""
    for trip in trips:
        memory[trip.gone : trip.fetch] -= trip.bytes
    leaving, coming = sorted(trips, key=lambda t: t.out), sorted(trips, key=lambda t: -t.gap.need)
    for at in np.flatnonzero(memory > budget).tolist():
        for trip in leaving:
            if memory[at] > budget and trip.out <= at < trip.gone:
                memory[at : trip.gone] -= trip.bytes
                trip.gone = at
        for trip in coming:
            if memory[at] > budget and trip.fetch <= at < trip.gap.need:
                memory[trip.fetch : at + 1] -= trip.bytes
                trip.fetch = at + 1
