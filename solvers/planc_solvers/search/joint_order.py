"""Order and recomputations searched together, where greedy plans fit in no order tried.

Only without swapping, and where no task updates state, so that every topological order is as good as the given one:
then a step may move wherever its inputs are on the device. The order found becomes that of the search proper, whose bounds
hold for it.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from math import inf

from planc.problem.bounds import minimum_budget
from planc.problem.problem import Problem
from planc.schedule.residency import memory_profile
from planc.schedule.schedule import Schedule
from planc.schedule.solver import SolveOptions
from planc_solvers.evaluation.arrays import arrays_of, empty_plan
from planc_solvers.evaluation.evaluate import evaluate
from planc_solvers.evaluation.schedule_conversion import plan_of, schedule_of
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


@dataclass(frozen=True, slots=True)
class _Phase:
    """One annealing."""

    time_share: float
    """The part of the time limit that it takes at most. Cooled by the clock instead, 12 s of 18 beside other jobs found no
    plan within the budget."""
    margin: float
    """The part of the budget that it aims at: the last bytes over it are hard to get rid of."""
    hot: float
    """Its first temperature relative to the mean duration of a task."""
    free: bool
    """Whether steps move freely. Rebuilding meanwhile did not help: its rule knows the given order only."""
    rebuilt: int = 0
    """Stretches rebuilt after every chunk of moves."""
    moves: float = 1.0
    """Its part of the moves."""


@dataclass(frozen=True, slots=True)
class JointSettings:
    """How orders and recomputations are annealed together."""

    seeds: int = 2
    """Annealings side by side, where there are several workers: results differ much from seed to seed."""
    moves_share: float = 0.45
    """Part of the time limit for `accesses_per_s`: moves are counted, so that a seed gives one answer."""
    accesses_per_s: float = 6e7
    cold: float = 2e-6
    """Temperature at the end of a phase, relative to the duration of all tasks."""
    price: float = 500.0
    """First price of being over the budget by all of it during the time of one task, relative to the tasks' mean."""
    pace: float = 5e-5
    """Pace of that price."""
    chunk: int = 500
    """Moves at one temperature."""


SETTINGS = JointSettings()

PHASES = (
    _Phase(0.3, 0.985, 3.0, free=True),
    _Phase(0.1, 1.0, 0.35, free=False, rebuilt=4, moves=0.125),
    _Phase(0.25, 1.0, 0.3, free=True, moves=1.5),
)
"""Rebuilding, in the order that the first found, makes use of what is left over, and then both are improved."""


def free_order(problem: Problem) -> bool:
    """Whether steps may move freely: nothing is swapped and no state updated."""
    return not any(v.swappable for v in problem.values) and all(mutator is None for mutator in problem.mutator)


def reordered(problem: Problem, options: SolveOptions) -> Schedule:
    """A schedule in an order of its own, within the budget or near it.

    Several workers go through each phase twice and go on with the better schedule.
    """
    ready_search()
    schedule, single = Schedule(tuple(range(len(problem.tasks)))), options.workers == 1
    seeds = [options.seed] if single else [SETTINGS.seeds * options.seed + number for number in range(SETTINGS.seeds)]
    with ThreadPoolExecutor(len(seeds)) as pool:
        for phase in PHASES:
            found = pool.map(partial(_phased, problem, phase, schedule, options), seeds)
            schedule = min(found, key=partial(_cost, problem))
            options.clock.spend(options.time_limit_s * phase.time_share)
    return schedule


def _cost(problem: Problem, schedule: Schedule) -> tuple[int, int]:
    """Most bytes over the budget, then ns of compute."""
    over = max(0, max(memory_profile(problem, schedule)) - problem.budget_bytes)
    return over, sum(problem.tasks[task].duration_ns for task in schedule.steps)


def _phased(problem: Problem, phase: _Phase, schedule: Schedule, options: SolveOptions, seed: int) -> Schedule:
    """What the phase makes of `schedule`, whose order is that of rebuilding."""
    order = first_executions(schedule)
    ranks = tuple(sorted(order, key=order.__getitem__))
    found = _annealed(permuted(problem, order), phase, renumbered(schedule, ranks), options, seed)
    return renumbered(found, order)


def _annealed(problem: Problem, phase: _Phase, schedule: Schedule, options: SolveOptions, seed: int) -> Schedule:
    """The best schedule within the phase's budget that annealing `schedule` finds, else its last."""
    budget = max(int(problem.budget_bytes * phase.margin), minimum_budget(problem)[0])
    arrays, base = arrays_of(replace(problem, budget_bytes=budget)), float(max(problem.base_duration_ns, 1))
    mean = base / len(problem.tasks)
    search, plan = annealing(arrays), plan_of(problem, arrays, schedule)
    search.state[BEST] = inf
    start(arrays, search, plan or empty_plan(arrays), SETTINGS.price * mean / max(arrays.budget, 1))
    accesses = phase.moves * options.time_limit_s * SETTINGS.moves_share * SETTINGS.accesses_per_s
    chunks = max(1, int(accesses / (arrays.reads.size + 64) / SETTINGS.chunk))
    ends = options.clock.now() + options.time_limit_s * phase.time_share
    for chunk in range(chunks):
        heat = phase.hot * mean * (SETTINGS.cold * base / (phase.hot * mean)) ** (chunk / chunks)
        mixed = (seed * 1_000_003 + chunk) % (1 << 32)
        anneal(
            arrays, search, Turn(FREE_MOVES if phase.free else SMALL_MOVES, SETTINGS.chunk, heat, SETTINGS.pace, mixed)
        )
        anneal(arrays, search, Turn(REBUILDING, phase.rebuilt, heat, SETTINGS.pace, mixed))
        if options.clock.now() > ends:
            break
    found = search.best if search.state[BEST] < inf else search.plans[int(search.state[CURRENT])]
    place = search.places[0]
    evaluate(arrays, found, place)
    return schedule_of(problem, found, place)
