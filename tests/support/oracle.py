"""Brute force on tiny problems: optimal step times that share no code with the solver."""

import heapq
import itertools
from collections.abc import Iterator

from planc.enums import Direction
from planc.problem.problem import Origin, Problem
from planc.schedule.residency import ScheduleError, host_bytes, memory_profile, residencies
from planc.schedule.schedule import Schedule, Transfer
from planc.schedule.simulate import simulate


def best_recompute_only(problem: Problem, any_order: bool = False) -> int | None:
    """Least total duration of a sequence within the budget, first executions in the given order; None if there is none.

    Dijkstra over (tasks done, values held); any held value may be dropped at any time. Computed and batch values only.
    With `any_order` first executions may come in every order.
    """
    tasks, size = problem.tasks, [v.bytes for v in problem.values]
    start = frozenset(v for v, p in enumerate(problem.producer) if p is None)
    queue: list[tuple[int, int, frozenset[int], frozenset[int]]] = [(0, 0, frozenset(), start)]
    seen: set[tuple[frozenset[int], frozenset[int]]] = set()
    ticket = 0
    while queue:
        cost, _, done, held = heapq.heappop(queue)
        if len(done) == len(tasks):
            return cost
        if (done, held) in seen:
            continue
        seen.add((done, held))
        for task in range(len(tasks) if any_order else len(done) + 1):
            info = tasks[task]
            if not held.issuperset(info.reads) or (task in done and not info.recomputable):
                continue
            for kept in _subsets(held, frozenset(info.reads)):
                after = kept | frozenset(info.writes)
                for form in info.forms:
                    if sum(size[v] for v in kept) + form.working_bytes <= problem.budget_bytes:
                        ticket += 1
                        state = (cost + form.duration_ns, ticket, done | {task}, after)
                        heapq.heappush(queue, state)
    return None


def _subsets(items: frozenset[int], fixed: frozenset[int]) -> Iterator[frozenset[int]]:
    free = sorted(items - fixed)
    for count in range(len(free) + 1):
        for chosen in itertools.combinations(free, count):
            yield fixed | frozenset(chosen)


def best_with_swaps(problem: Problem, repeats: int = 1) -> int | None:
    """Least simulated step time over every schedule with at most `repeats` recomputations, and one copy each way a value.

    Enumerates sequences with first executions in the given order, host starts, and every start and stop of the copies.
    """
    best: int | None = None
    limit = problem.host_budget_bytes
    for steps in _sequences(problem, repeats):
        for copies, host in _copy_sets(problem, steps):
            if limit is not None and host_bytes(problem, Schedule(steps, copies, host)) > limit:
                continue
            for choices in itertools.product(*(range(len(problem.tasks[t].forms)) for t in steps)):
                schedule = Schedule(steps, copies, host, choices)
                try:
                    if max(memory_profile(problem, schedule)) > problem.budget_bytes:
                        continue
                    time = simulate(problem, schedule).step_ns
                except ScheduleError:
                    continue
                best = time if best is None else min(best, time)
    return best


def _sequences(problem: Problem, repeats: int) -> Iterator[tuple[int, ...]]:
    base = tuple(range(len(problem.tasks)))
    yield base
    if repeats:
        for task, info in enumerate(problem.tasks):
            for position in range(task + 2, len(base) + 1) if info.recomputable else ():
                yield (*base[:position], task, *base[position:])


def _copy_sets(problem: Problem, steps: tuple[int, ...]) -> Iterator[tuple[tuple[Transfer, ...], frozenset[int]]]:
    swappable = [v for v, info in enumerate(problem.values) if info.swappable]
    for options in itertools.product(*(_valid(problem, v, steps) for v in swappable)):
        copies = [copy for copies, _ in options for copy in copies]
        copies.sort(key=lambda c: (c.start, c.stop))
        yield tuple(copies), frozenset(v for v, (_, home) in zip(swappable, options, strict=True) if home)


def _valid(problem: Problem, value: int, steps: tuple[int, ...]) -> list[tuple[tuple[Transfer, ...], bool]]:
    found = []
    for copies, home in _options(problem, value, len(steps)):
        try:
            residencies(problem, Schedule(steps, copies, frozenset({value} if home else ())))
        except ScheduleError:
            continue
        found.append((copies, home))
    return found


def _options(problem: Problem, value: int, length: int) -> list[tuple[tuple[Transfer, ...], bool]]:
    """Nothing; out and in; for what may start on the host also in from there, and for state out again after it."""
    spans = list(itertools.combinations_with_replacement(range(length + 1), 2))
    outs = [Transfer(value, Direction.OUT, a, b) for a, b in spans]
    ins = [Transfer(value, Direction.IN, a, b) for a, b in spans]
    found: list[tuple[tuple[Transfer, ...], bool]] = [((), False)]
    found += [((o, i), False) for o in outs for i in ins if o.stop <= i.start]
    origin = problem.values[value].origin
    if origin is Origin.STATE:
        found += [((i, o), True) for o in outs for i in ins if i.stop <= o.start]
    elif origin is not Origin.COMPUTED:
        found += [((i,), True) for i in ins]
    return found
