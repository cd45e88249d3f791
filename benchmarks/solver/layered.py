"""Random layered graphs in the manner of MOCCASIN's (Bartan et al. 2023): nodes read what recent layers made."""

import random

from planc.problem.problem import Problem, Task, Value
from planc.schedule.residency import memory_profile
from planc.schedule.schedule import Schedule


def random_layered(nodes: int, fraction: float, seed: int = 0, degree: float = 5.9) -> Problem:
    """A recompute-only problem of `nodes` tasks with about `degree` inputs each, at a fraction of its order's peak."""
    rng = random.Random(seed)
    width = max(3, round(nodes**0.5 / 2))
    tasks, values = [], []
    for index in range(nodes):
        reach = min(index, 6 * width)
        recent = range(index - reach, index)
        count = min(reach, max(1, round(rng.expovariate(1 / degree)))) if index >= width else 0
        reads = tuple(sorted(rng.sample(recent, count)))
        size = rng.randint(1, 1000) * 10
        values.append(Value(str(index), size))
        tasks.append(Task(str(index), rng.randint(1, 1000) * 1000, reads, (index,), size, recomputable=True))
    whole = Problem(tuple(tasks), tuple(values), 1 << 62)
    peak = max(memory_profile(whole, Schedule(tuple(range(nodes)))))
    return Problem(whole.tasks, whole.values, int(peak * fraction))
