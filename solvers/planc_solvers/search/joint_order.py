"""Order and recomputations searched together, where greedy plans fit in no order tried.

Only without swapping, and where no task updates state, so that every topological order is as good as the given one:
then a step may move wherever its inputs are on the device. The order found becomes that of the search proper, whose bounds
hold for it.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from math import inf
from typing import NamedTuple

from planc.problem.bounds import minimum_budget
from planc.problem.problem import Problem
from planc.schedule.residency import memory_profile
from planc.schedule.schedule import Schedule
from planc_solvers.evaluation.arrays import arrays_of, empty_plan
from planc_solvers.evaluation.evaluate import evaluate
from planc_solvers.evaluation.schedule_conversion import plan_of, schedule_of
from planc_solvers.ready import CLOCK
from planc_solvers.search.annealing import (
    BEST,
    CURRENT,
    FREE_MOVES,
    REBUILDING,
    SMALL_MOVES,
    Turn,
    anneal,
    annealing,
    ready_search,
    start,
)
from planc_solvers.search.task_order import first_executions, permuted, renumbered


class _Phase(NamedTuple):
    """One annealing: the part of the time limit that it takes at most, the part of the budget that it aims at, its first
    temperature relative to the mean duration of a task, whether steps move freely, stretches rebuilt after every chunk
    of moves, and its part of the moves."""

    time_share: float
    margin: float
    hot: float
    free: bool
    rebuilt: int = 0
    moves: float = 1.0


PHASES = (
    _Phase(0.3, 0.985, 3.0, free=True),
    _Phase(0.1, 1.0, 0.35, free=False, rebuilt=4, moves=0.125),
    _Phase(0.25, 1.0, 0.3, free=True, moves=1.5),
)
"""The last bytes over the budget are hard to get rid of, so that less is aimed at first. Rebuilding, in the order that this
found, makes use of what is left, and then both are improved."""

SEEDS = 2
"""Annealings side by side, where there are several workers."""

MOVES_SHARE, ACCESSES_PER_S = 0.45, 6e7
"""Part of the time limit, and accesses evaluated in a second: moves are counted, so that a seed gives one answer."""

COLD = 2e-6
"""Temperature at the end of a phase, relative to the duration of all tasks."""

PRICE = 500.0
"""First price of being over the budget by all of it during the time of one task, relative to the tasks' mean."""

PACE, CHUNK = 5e-5, 500
"""Pace of that price, and moves at one temperature."""


def free_order(problem: Problem) -> bool:
    """Whether steps may move freely: nothing is swapped and no state updated."""
    return not any(v.swappable for v in problem.values) and all(mutator is None for mutator in problem.mutator)


def reordered(problem: Problem, seconds: float, seed: int, workers: int) -> Schedule:
    """A schedule in an order of its own, within the budget or near it; a single worker takes no notice of the clock.

    Results differ much from seed to seed: several workers go through each phase twice and go on with the better schedule.
    """
    ready_search()
    schedule = Schedule(tuple(range(len(problem.tasks))))
    seeds = [seed] if workers == 1 else [SEEDS * seed + number for number in range(SEEDS)]
    with ThreadPoolExecutor(len(seeds)) as pool:
        for phase in PHASES:
            found = pool.map(partial(_phased, problem, phase, schedule, seconds, workers), seeds)
            schedule = min(found, key=partial(_cost, problem))
    return schedule


def _cost(problem: Problem, schedule: Schedule) -> tuple[int, int]:
    """Most bytes over the budget, then ns of compute."""
    over = max(0, max(memory_profile(problem, schedule)) - problem.budget_bytes)
    return over, sum(problem.tasks[task].duration_ns for task in schedule.steps)


def _phased(problem: Problem, phase: _Phase, schedule: Schedule, seconds: float, workers: int, seed: int) -> Schedule:
    """What the phase makes of `schedule`, whose order is that of rebuilding."""
    order = first_executions(schedule)
    ranks = tuple(sorted(order, key=order.__getitem__))
    found = _annealed(permuted(problem, order), phase, renumbered(schedule, ranks), seconds, workers, seed)
    return renumbered(found, order)


def _annealed(problem: Problem, phase: _Phase, schedule: Schedule, seconds: float, workers: int, seed: int) -> Schedule:
    """The best schedule within the phase's budget that annealing `schedule` finds, else its last."""
    budget = max(int(problem.budget_bytes * phase.margin), minimum_budget(problem)[0])
    arrays, base = arrays_of(replace(problem, budget_bytes=budget)), float(max(problem.base_duration_ns, 1))
    mean = base / len(problem.tasks)
    search, plan = annealing(arrays), plan_of(problem, arrays, schedule)
    search.state[BEST] = inf
    start(arrays, search, plan or empty_plan(arrays), PRICE * mean / max(arrays.budget, 1))
    moves = phase.moves * seconds * MOVES_SHARE * ACCESSES_PER_S / (arrays.reads.size + 64)
    chunks, ends = max(1, int(moves / CHUNK)), CLOCK.now() + seconds * phase.time_share
    for chunk in range(chunks):
        heat = phase.hot * mean * (COLD * base / (phase.hot * mean)) ** (chunk / chunks)
        mixed = (seed * 1_000_003 + chunk) % (1 << 32)
        anneal(arrays, search, Turn(FREE_MOVES if phase.free else SMALL_MOVES, CHUNK, heat, PACE, mixed))
        anneal(arrays, search, Turn(REBUILDING, phase.rebuilt, heat, PACE, mixed))
        if workers > 1 and CLOCK.now() > ends:
            break
    found = search.best if search.state[BEST] < inf else search.plans[int(search.state[CURRENT])]
    place = search.places[0]
    evaluate(arrays, found, place)
    return schedule_of(problem, found, place)
