"""Another order of independent tasks, where it lowers what keeping everything is over the budget.

Simulated annealing (Kirkpatrick et al. 1983) on topological orders: a task moves within the window that its
predecessors and successors leave. Readers of a state value stay on their side of its update, and an exchange behind what
runs before it. The score is the bytes
over the budget, summed over the positions; at zero the plan that keeps everything fits, above greedy plans must confirm
that the order is the better one.
"""

from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple

import numpy as np

from planc.compiled.packed import Packed
from planc.problem.problem import Problem
from planc.schedule.schedule import Schedule
from planc.schedule.solver import SolveOptions
from planc_solvers.evaluation.arrays import Arrays, Ints, SearchPlan, arrays_of, csr, empty_plan
from planc_solvers.evaluation.evaluate import evaluate, evaluate_excess
from planc_solvers.evaluation.workspace import EXCESS, MAKESPAN, Workspace, workspace
from planc_solvers.jit import inner, outer
from planc_solvers.ready import TINY, Once
from planc_solvers.search.greedy import greedy_plans, ready_greedy


@dataclass(frozen=True, slots=True)
class OrderSettings:
    """How long an order is looked for, and when it is taken."""

    accesses_per_s: float = 2e7
    """Accesses that an evaluation without copies passes in a second, at least."""
    time_share: float = 0.05
    """Part of the time limit that the search takes."""
    most_moves: int = 60_000
    most_accesses: int = 20_000
    """Above, a share of the time is too short to find an order."""
    trials: int = 8
    """Greedy plans by which an order that leaves something over the budget is compared with the given one."""
    worth: float = 0.5
    """An order is taken when it leaves at most this part of the excess of the given one; where it leaves more, plans of
    deep networks came out slower: any order with a tenth less gave ResNet-50 (2017 GPU, 20 %) 3.8 instead of 3.0 % in 10
    s."""


SETTINGS = OrderSettings()


class OrderMoves(NamedTuple):
    """How orders are annealed, in compiled code."""

    hot: float = 0.01
    """First temperature, as a part of the excess of the given order."""
    cooled: float = 1e-4
    """Last temperature, as a part of the first."""
    to_end: float = 0.3
    """Chance that a task goes as early or as late as it can: there it meets what it was kept apart from."""


MOVES = OrderMoves()


def better_order(problem: Problem, options: SolveOptions) -> tuple[int, ...] | None:
    """Tasks in an order with less over the budget when everything is kept, or None where none was found."""
    if sum(map(len, problem.accesses)) > SETTINGS.most_accesses:
        return None
    arrays = arrays_of(problem)
    plan, place = empty_plan(arrays), workspace(arrays)
    evaluate(arrays, plan, place)
    before = float(place.total[EXCESS])
    if before <= 0 or not np.isfinite(before):
        return None
    windows, move_s = _windows(problem), (arrays.reads.size + 64) / SETTINGS.accesses_per_s
    moves = int(min(SETTINGS.most_moves, options.time_limit_s * SETTINGS.time_share / move_s))
    after = _anneal_order(arrays, plan, place, windows, moves, options.seed)
    options.clock.spend(moves * move_s)
    order = tuple(windows.best.tolist())
    if after > SETTINGS.worth * before:
        return None
    given = greedy_ns(problem, options.seed) if after > 0 else np.inf
    return None if given < np.inf and greedy_ns(permuted(problem, order), options.seed) >= given else order


def greedy_ns(problem: Problem, seed: int) -> float:
    """Step time of the best of a few greedy plans; infinite where none of them fits."""
    ready_greedy()
    arrays, best = arrays_of(problem), np.inf
    place = workspace(arrays)
    for plan in islice(greedy_plans(arrays, place, seed), SETTINGS.trials):
        if plan is not None:
            best = float(place.total[MAKESPAN])
    return best


def permuted(problem: Problem, order: tuple[int, ...]) -> Problem:
    """`problem` with its tasks in that order."""
    return replace(problem, tasks=tuple(problem.tasks[task] for task in order))


def renumbered(schedule: Schedule, numbers: tuple[int, ...]) -> Schedule:
    """`schedule` with task `t` called `numbers[t]`."""
    return replace(schedule, steps=tuple(numbers[task] for task in schedule.steps))


def first_executions(schedule: Schedule) -> tuple[int, ...]:
    """The tasks in the order in which they first run."""
    return tuple(dict.fromkeys(schedule.steps))


@dataclass(frozen=True, eq=False)
class _Windows(Packed):
    """For each task those that must run before it, and those that must run after it, with room for the search."""

    before_ptr: Ints
    before: Ints
    after_ptr: Ints
    after: Ints
    place: Ints
    """Position of each task in the present order."""
    best: Ints
    """The best order."""


def _windows(problem: Problem) -> _Windows:
    before: list[dict[int, None]] = [{} for _ in problem.tasks]
    for task, accessed in enumerate(problem.accesses):
        for value in accessed:
            producer, mutator = problem.producer[value], problem.mutator[value]
            if producer is not None:
                before[task][producer] = None
            if mutator is not None and mutator != task:
                first, second = (mutator, task) if mutator < task else (task, mutator)
                before[second][first] = None
    since = 0
    for task, info in enumerate(problem.tasks):
        if info.exchange_ns:  # what runs before it hides it
            before[task] |= dict.fromkeys(range(since, task))
            since = task
    after: list[list[int]] = [[] for _ in problem.tasks]
    for task, found in enumerate(before):
        for other in found:
            after[other].append(task)
    places = np.arange(len(problem.tasks))
    return _Windows(*csr(before), *csr(after), places, places.copy())


@inner
def _shift(seq: Ints, place: Ints, source: int, target: int) -> None:
    """Move the task at `source` to `target`; those between move by one."""
    task, step = seq[source], 1 if target > source else -1
    for p in range(source, target, step):
        seq[p] = seq[p + step]
        place[seq[p]] = p
    seq[target] = task
    place[task] = target


@inner
def _new_place(windows: _Windows, task: int) -> int:
    """A random position in which `task` may stand, or its own."""
    place, low, high = windows.place, 0, windows.place.size - 1
    for k in range(windows.before_ptr[task], windows.before_ptr[task + 1]):
        low = max(low, place[windows.before[k]] + 1)
    for k in range(windows.after_ptr[task], windows.after_ptr[task + 1]):
        high = min(high, place[windows.after[k]] - 1)
    if high <= low:
        return int(place[task])
    target = np.random.randint(low, high + 1)
    if np.random.random() < MOVES.to_end:
        target = low if np.random.random() < 0.5 else high
    return int(target)


@outer
def _anneal_order(a: Arrays, s: SearchPlan, w: Workspace, windows: _Windows, moves: int, seed: int) -> float:
    """Anneal the order in `s`, leaving the best in `windows.best`; what that is over the budget, in byte-positions."""
    np.random.seed(seed)
    tasks, seq, place = a.duration.size, s.seq, windows.place
    for p in range(tasks):
        place[seq[p]] = p
    evaluate_excess(a, s, w)
    current = lowest = w.total[EXCESS]
    first = current
    for i in range(moves):
        if lowest <= 0:
            break
        # 1. A random task goes elsewhere between those that it needs and those that need it.
        heat = MOVES.hot * first * MOVES.cooled ** (i / moves)
        task = np.random.randint(tasks)
        source, target = place[task], _new_place(windows, task)
        if target == source:
            continue
        _shift(seq, place, source, target)
        # 2. It stays there by the Metropolis rule, or goes back.
        valid = evaluate_excess(a, s, w)
        if not valid or w.total[EXCESS] > current - heat * np.log(1.0 - np.random.random()):
            _shift(seq, place, target, source)
            continue
        current = w.total[EXCESS]
        if current < lowest:
            lowest = current
            for p in range(tasks):
                windows.best[p] = seq[p]
    return float(lowest)


@Once
def ready_order() -> None:
    """Compile, or load, the search of this file."""
    better_order(TINY, SolveOptions(0.0))
