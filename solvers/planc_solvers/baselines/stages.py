"""A training step as a chain of stages, for the policies that are optimal on chains.

A stage is a run of forward tasks. What passes from one stage to the next is the bundle of all values made before the
cut and read by forward tasks after it: one tensor in a chain proper, several where branches or skip connections cross.
Policies arrange executions of stages; the schedule that results is measured exactly, so that the chain decides how good
it is, never whether it is right.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from planc.problem.problem import Origin, Problem
from planc.schedule.schedule import Schedule
from planc_solvers.baselines.training_step import backward_start, deadlines

MOST_STAGES = 60
"""Stages of a chain: longer ones are cut where bundles are smallest, so that dynamic programs stay within seconds."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Forward tasks with what the passes over them take: times in ns, sizes in bytes.

    `output` is the bundle behind the stage, `saved` all that its backward pass wants of it, that bundle included, and
    `gradient` what enters its backward pass from those behind it. The peaks of its passes count neither its input nor
    that gradient: forward when nothing but the bundle stays, forward when all that is saved stays, and backward, there
    with the gradient.
    """

    tasks: tuple[int, ...]
    forward_ns: int
    backward_ns: int
    output: int
    saved: int
    gradient: int
    passing_peak: int
    saving_peak: int
    backward_peak: int


@dataclass(frozen=True)
class Chain:
    """The stages, and for each the tasks of its backward pass; those come in the order of the problem, last stage
    first."""

    problem: Problem
    stages: tuple[Stage, ...]
    backward: tuple[tuple[int, ...], ...]

    def schedule(self, actions: Iterable[tuple[str, int]]) -> Schedule | None:
        """The schedule of actions `("forward", stage)` and `("backward", stage)`.

        Repeats of what cannot run again, or that nothing reads, are left out; None where state was updated meanwhile.
        """
        steps: list[int] = []
        done: set[int] = set()
        for kind, index in actions:
            if kind == "backward":
                steps += self.backward[index]
                continue
            again = index in done
            done.add(index)
            steps += (t for t in self.stages[index].tasks if not again or self.problem.tasks[t].recomputable)
        steps = needed_steps(self.problem, steps)
        return Schedule(tuple(steps)) if _timely(self.problem, steps) else None


def chain_of(problem: Problem, most: int = MOST_STAGES) -> Chain:
    """The chain of at most `most` stages."""
    start = backward_start(problem)
    cuts = _cuts(problem, start, most)
    stage_of = [0] * start
    for index, (begin, end) in enumerate(zip([0, *cuts], [*cuts, start], strict=True)):
        stage_of[begin:end] = [index] * (end - begin)
    backward = _backward(problem, start, stage_of, len(cuts) + 1)
    stages = tuple(
        _stage(problem, start, begin, end, backward[index])
        for index, (begin, end) in enumerate(zip([0, *cuts], [*cuts, start], strict=True))
    )
    return Chain(problem, stages, backward)


def bundle_bytes(problem: Problem, start: int) -> list[int]:
    """For each forward task the bytes that pass to forward tasks behind it."""
    change = [0] * (start + 1)
    for value, producer in enumerate(problem.producer):
        readers = [r for r in problem.readers[value] if r < start]
        if producer is not None and producer < start and readers:
            change[producer] += problem.values[value].bytes
            change[max(readers)] -= problem.values[value].bytes
    held, found = 0, []
    for task in range(start):
        held += change[task]
        found.append(held)
    return found


def _cuts(problem: Problem, start: int, most: int) -> list[int]:
    """Positions of stage boundaries: the smallest bundle in each of `most` - 1 windows of equally many tasks."""
    if start <= most:
        return list(range(1, start))
    bundles = bundle_bytes(problem, start)
    edges = [1 + round(k * (start - 1) / (most - 1)) for k in range(most)]
    return [min(range(a, b), key=lambda p: bundles[p - 1]) for a, b in itertools.pairwise(edges) if b > a]


def _backward(problem: Problem, start: int, stage_of: Sequence[int], count: int) -> tuple[tuple[int, ...], ...]:
    """Tasks from `start` on by stage: that of the layer of the same name, else of the latest saved value read; stages
    only ever go down along the order."""
    by_name = {_layer(problem, t): stage_of[t] for t in range(start)}
    made = {v: stage_of[p] for v, p in enumerate(problem.producer) if p is not None and p < start}
    groups: list[list[int]] = [[] for _ in range(count)]
    now = count - 1
    for task in range(start, len(problem.tasks)):
        saved = [made[v] for v in problem.tasks[task].reads if v in made]
        own = by_name.get(_layer(problem, task)) if problem.tasks[task].phase else max(saved, default=None)
        now = min(now, now if own is None else own)
        groups[now].append(task)
    return tuple(map(tuple, groups))


def _layer(problem: Problem, task: int) -> str:
    info = problem.tasks[task]
    return info.name.removesuffix(f" {info.phase}")


def _stage(problem: Problem, start: int, begin: int, end: int, backward: tuple[int, ...]) -> Stage:
    size, tasks = [value.bytes for value in problem.values], problem.tasks
    forward = tuple(range(begin, end))
    crossing = {v for v in _made_before(problem, end) if any(end <= r < start for r in problem.readers[v])}
    made = {v for v in _made_before(problem, end) if (problem.producer[v] or 0) >= begin}
    wanted = {v for v in made if any(r >= start for r in problem.readers[v])} | crossing
    group = set(backward)
    earlier = min(backward, default=len(tasks))
    entering = {
        v
        for v, p in enumerate(problem.producer)
        if p is not None and start <= p < earlier and any(r >= earlier for r in problem.readers[v])
    }
    return Stage(
        tasks=forward,
        forward_ns=sum(tasks[t].duration_ns for t in forward if tasks[t].recomputable),
        backward_ns=sum(tasks[t].duration_ns for t in backward),
        output=sum(size[v] for v in crossing),
        saved=sum(size[v] for v in wanted),
        gradient=sum(size[v] for v in entering),
        passing_peak=_peak(problem, forward, set(), lambda v: v in crossing),
        saving_peak=_peak(problem, forward, set(), lambda v: v in wanted),
        backward_peak=_peak(problem, backward, wanted | entering, lambda v: not group.issuperset(problem.readers[v])),
    )


def _made_before(problem: Problem, end: int) -> list[int]:
    """Computed values of tasks before `end`."""
    return [v for v, p in enumerate(problem.producer) if p is not None and p < end]


def _peak(problem: Problem, tasks: Sequence[int], held: set[int], stays: Callable[[int], bool]) -> int:
    """Most bytes while the tasks run in order, of what is `held` before and what they make; each value goes after its
    last reader among them unless it `stays`. A backward pass's gradients for later ones stay as long as these have not
    run."""
    held, order = set(held), {task: at for at, task in enumerate(tasks)}
    most = 0
    for at, task in enumerate(tasks):
        info = problem.tasks[task]
        most = max(most, sum(problem.values[v].bytes for v in held) + info.working_bytes)
        held.update(v for v in info.writes if problem.values[v].origin is Origin.COMPUTED)
        gone = {v for v in held if max((order.get(r, -1) for r in problem.readers[v]), default=-1) <= at}
        held -= {v for v in gone if not stays(v)}
    return most


def needed_steps(problem: Problem, steps: Sequence[int]) -> list[int]:
    """`steps` without those repeats whose results no later step reads."""
    first = {task: position for position, task in reversed(list(enumerate(steps)))}
    wanted: set[int] = set()
    kept = []
    for position in range(len(steps) - 1, -1, -1):
        task = steps[position]
        if first[task] != position and wanted.isdisjoint(problem.tasks[task].writes):
            continue
        wanted.difference_update(problem.tasks[task].writes)
        wanted.update(problem.accesses[task])
        kept.append(task)
    return kept[::-1]


def _timely(problem: Problem, steps: Sequence[int]) -> bool:
    """Whether no repeat reads state that has been updated."""
    last, done = deadlines(problem), set[int]()
    for task in steps:
        if task in done and last[task] in done:
            return False
        done.add(task)
    return True
