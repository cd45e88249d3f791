"""Random valid schedules: what any solver might return."""

import random
from itertools import pairwise

from planc.enums import Direction
from planc.problem.problem import Origin, Problem
from planc.schedule.schedule import Schedule, Transfer


def random_schedule(problem: Problem, seed: int, swap: float = 0.4, recompute: float = 0.3) -> Schedule:
    """Swaps and recomputes at random: each saved value may be copied out and in, or its producer repeated just in time."""
    rng = random.Random(seed)
    steps = list(range(len(problem.tasks)))
    for value, producer in enumerate(problem.producer):
        if producer is None or not problem.tasks[producer].recomputable or rng.random() > recompute:
            continue
        backward = [t for t in problem.readers[value] if not problem.tasks[t].recomputable]
        if backward and _repeatable(problem, producer, backward[0]):
            steps.insert(steps.index(backward[0]), producer)
    copies: list[Transfer] = []
    host_start = set()
    for value in range(len(problem.values)):
        if rng.random() < swap and problem.values[value].swappable:
            copies += _swapped(problem, steps, value, rng, host_start)
    copies.sort(key=lambda c: (c.start, c.direction is Direction.IN))
    return Schedule(tuple(steps), tuple(copies), frozenset(host_start))


def _repeatable(problem: Problem, producer: int, before: int) -> bool:
    """Whether the producer's state inputs are still old at `before`; its other inputs stay resident by liveness."""
    mutators = [problem.mutator[v] for v in problem.tasks[producer].reads]
    return all(m is None or m >= before for m in mutators)


def _swapped(
    problem: Problem, steps: list[int], value: int, rng: random.Random, host_start: set[int]
) -> list[Transfer]:
    """Copies of one value: out after a use and in before the next; state may start on the host."""
    touches = [p for p, t in enumerate(steps) if value in problem.tasks[t].reads or value in problem.tasks[t].writes]
    origin, end = problem.values[value].origin, len(steps)
    if not touches:
        return []
    if origin in (Origin.BATCH, Origin.CONSTANT) and rng.random() < 0.2:
        start = rng.randint(0, touches[0])  # in spite of a copy there at the start, which is thus idle
        return [Transfer(value, Direction.IN, start, rng.randint(start, touches[0]))]
    if origin in (Origin.STATE, Origin.CONSTANT) and rng.random() < 0.5:
        host_start.add(value)
        start = rng.randint(0, touches[0])
        copies = [Transfer(value, Direction.IN, start, rng.randint(start, touches[0]))]
        if origin is Origin.STATE:
            out = rng.randint(touches[-1] + 1, end)
            copies.append(Transfer(value, Direction.OUT, out, rng.randint(out, end)))
        return copies
    gaps = [(a, b) for a, b in pairwise(touches) if b > a + 1 and not _made(problem, steps[b], value)]
    if not gaps:
        return []
    a, b = rng.choice(gaps)
    out = rng.randint(a + 1, b)
    stop = rng.randint(out, b)
    start = rng.randint(out, b)
    return [Transfer(value, Direction.OUT, out, stop), Transfer(value, Direction.IN, start, rng.randint(start, b))]


def _made(problem: Problem, task: int, value: int) -> bool:
    return value in problem.tasks[task].writes and problem.values[value].origin is Origin.COMPUTED
