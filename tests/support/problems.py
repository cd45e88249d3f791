"""Random planning problems: a chain with branches, state that is read and updated, batch and constant inputs."""

import random
from dataclasses import replace

from planc.problem.problem import Alternative, Contention, Origin, Problem, Task, Value

FREE = Contention()
SLOW = Contention(100_000, 200_000, 300_000, 50_000)
EXCHANGE_PAIRS = ("compute_exchange", "copy_exchange", "exchange_compute", "exchange_copy")


def random_problem(seed: int, tasks: int = 12, boundary_ns: int = 0, contention: Contention = SLOW) -> Problem:
    """A problem without a budget; every origin, several outputs, mutated state and needed outputs occur."""
    rng, values, made = random.Random(seed), list[Value](), list[Task]()

    def value(origin: Origin, needed: bool = False) -> int:
        size, out, in_ = rng.randint(1, 20), rng.randint(1, 60), rng.randint(1, 60)
        values.append(Value(f"v{len(values)}", size, origin, rng.random() < 0.9, out, in_, needed))
        return len(values) - 1

    state = [value(Origin.STATE) for _ in range(3)]
    ready = [value(Origin.BATCH), value(Origin.BATCH), value(Origin.CONSTANT)]
    mutated: set[int] = set()
    for index in range(tasks):
        reads = set(rng.sample(ready, min(len(ready), rng.randint(1, 3))))
        if rng.random() < 0.5:
            reads.add(rng.choice(state))
        writes: list[int] = []
        target = rng.choice(state)
        if index > tasks // 2 and target not in mutated and rng.random() < 0.5:
            mutated.add(target)
            writes.append(target)
        repeat = not writes and rng.random() < 0.7
        outs = [value(Origin.COMPUTED, rng.random() < 0.1) for _ in range(rng.randint(1, 2))]
        ready += outs
        working = sum(values[v].bytes for v in outs)
        made.append(Task(f"t{index}", rng.randint(1, 50), tuple(sorted(reads)), (*writes, *outs), working, repeat))
    return Problem(tuple(made), tuple(values), 1 << 40, contention=contention, boundary_ns=boundary_ns)


def with_exchanges(problem: Problem, seed: int, share: float = 0.4) -> Problem:
    """`problem` where some tasks that change no state wait for an exchange of what they read, which stays on the device."""
    rng, tasks, operands = random.Random(seed), list[Task](), set[int]()
    for task in problem.tasks:
        if rng.random() < share and all(problem.values[v].origin is Origin.COMPUTED for v in task.writes):
            tasks.append(replace(task, exchange_ns=rng.randint(1, 60), recomputable=False))
            operands.update(task.reads)
        else:
            tasks.append(task)
    values = tuple(replace(v, swappable=v.swappable and i not in operands) for i, v in enumerate(problem.values))
    beside = {f"{pair}_ppm": rng.randint(0, 300_000) for pair in EXCHANGE_PAIRS}
    return replace(problem, tasks=tuple(tasks), values=values, contention=replace(problem.contention, **beside))


def random_dag(seed: int, tasks: int = 7) -> Problem:
    """Recompute only: one output a task, no link, everything but a few tasks may be repeated."""
    rng = random.Random(seed)
    values = [Value(f"v{i}", rng.randint(1, 6)) for i in range(tasks)]
    made = []
    for i in range(tasks):
        reads = set(rng.sample(range(i), min(i, rng.randint(1, 2)))) | ({i - 1} if i and rng.random() < 0.6 else set())
        made.append(Task(f"t{i}", rng.randint(1, 9), tuple(sorted(reads)), (i,), values[i].bytes, rng.random() < 0.8))
    return Problem(tuple(made), tuple(values), 1 << 40)


def with_alternatives(problem: Problem, seed: int, share: float = 0.5) -> Problem:
    """`problem` where some tasks have one or two other forms: leaner and slower, or faster and larger."""
    rng, tasks = random.Random(seed), []
    for task in problem.tasks:
        forms = []
        for name in ("lean", "fast")[: rng.randint(1, 2)] if rng.random() < share else ():
            sign = 1 if name == "lean" else -1
            duration = max(1, task.duration_ns + sign * rng.randint(0, 4))
            forms.append(Alternative(name, duration, max(0, task.working_bytes - sign * rng.randint(0, 4))))
        tasks.append(replace(task, alternatives=tuple(forms)))
    return replace(problem, tasks=tuple(tasks))


def small_swap_problem(seed: int) -> Problem:
    """Three or four tasks, one swappable activation, and state that may be swapped: small enough for brute force."""
    rng, values, made = random.Random(seed), list[Value](), list[Task]()

    def value(origin: Origin, swappable: bool) -> int:
        values.append(
            Value(f"v{len(values)}", rng.randint(1, 6), origin, swappable, rng.randint(1, 9), rng.randint(1, 9))
        )
        return len(values) - 1

    tasks, ready = rng.randint(3, 4), [value(Origin.BATCH, False)]
    state = value(Origin.STATE, True) if rng.random() < 0.6 else None
    chosen = rng.randrange(tasks - 1)
    for index in range(tasks):
        reads = set(rng.sample(ready, min(len(ready), rng.randint(1, 2)))) | (
            {ready[-1]} if rng.random() < 0.6 else set()
        )
        updates = state is not None and index == tasks - 1 and rng.random() < 0.7
        if state is not None and (updates or index == 0 or rng.random() < 0.4):
            reads.add(state)
        output = value(Origin.COMPUTED, index == chosen)
        ready.append(output)
        writes = (*([state] if updates and state is not None else []), output)
        repeat = not updates and rng.random() < 0.8
        made.append(Task(f"t{index}", rng.randint(1, 9), tuple(sorted(reads)), writes, values[output].bytes, repeat))
    contention = Contention(*(rng.choice([0, 100_000]) for _ in range(4)))
    return Problem(tuple(made), tuple(values), 1 << 40, contention=contention)
