"""Order and recomputations searched together, where greedy plans fit in no order tried.

Only without swapping, and where no task updates state, so that every topological order is as good as the given one:
then a step may move wherever its inputs are on the device. The order found becomes that of the search proper, whose bounds
hold for it.
"""

from dataclasses import replace
from math import inf

from planc.problem.bounds import minimum_budget
from planc.problem.problem import Problem
from planc.schedule.schedule import Schedule
from planc_solvers.arrays import arrays_of, empty_plan
from planc_solvers.build import schedule_of
from planc_solvers.evaluate import evaluate
from planc_solvers.ready import CLOCK
from planc_solvers.search import BEST, CURRENT, anneal, annealing, ready_search, start

TIME_SHARE, ACCESSES_PER_S = 0.45, 6e7
"""Part of the time limit, and accesses evaluated in a second: moves are counted, so that a seed gives one answer."""

HOT, COLD = 3.0, 2e-6
"""Temperatures at the beginning, relative to the mean duration of a task, and at the end, relative to that of all."""

PRICE = 500.0
"""First price of being over the budget by all of it during the time of one task, relative to the tasks' mean."""

MARGIN = 0.985
"""Part of the budget that is aimed at: the last bytes over it are hard to get rid of."""

PACE, CHUNK = 5e-5, 500
"""Pace of that price, and moves at one temperature."""


def free_order(problem: Problem) -> bool:
    """Whether steps may move freely: nothing is swapped and no state updated."""
    return not any(v.swappable for v in problem.values) and all(mutator is None for mutator in problem.mutator)


def reordered(problem: Problem, seconds: float, seed: int, workers: int) -> Schedule:
    """A schedule in an order of its own, within the budget or near it; a single worker takes no notice of the clock."""
    ready_search()
    budget = max(int(problem.budget_bytes * MARGIN), minimum_budget(problem)[0])
    arrays, base = arrays_of(replace(problem, budget_bytes=budget)), float(max(problem.base_duration_ns, 1))
    mean = base / len(problem.tasks)
    search, plan = annealing(arrays), empty_plan(arrays)
    search.state[BEST] = inf
    start(arrays, search, plan, PRICE * mean / max(arrays.budget, 1))
    chunks = max(1, int(seconds * TIME_SHARE * ACCESSES_PER_S / (arrays.reads.size + 64) / CHUNK))
    ends = CLOCK.now() + seconds * TIME_SHARE
    for chunk in range(chunks):
        heat = HOT * mean * (COLD * base / (HOT * mean)) ** (chunk / chunks)
        mixed = (seed * 1_000_003 + chunk) % (1 << 32)
        anneal(arrays, search, False, CHUNK, heat, heat, PACE, mixed, True, False)
        if workers > 1 and CLOCK.now() > ends:
            break
    found = search.best if search.state[BEST] < inf else search.plans[int(search.state[CURRENT])]
    place = search.places[0]
    evaluate(arrays, found, place)
    return schedule_of(problem, found, place)
