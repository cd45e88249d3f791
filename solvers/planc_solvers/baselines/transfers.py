"""Copies of what a policy offloads: where in a sequence a value idles, when it leaves and when it comes back."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from planc.enums import Direction
from planc.problem.problem import Origin, Problem
from planc.schedule.schedule import Transfer


@dataclass(frozen=True, slots=True)
class Gap:
    """Positions of a sequence between which a value idles: its last use before, its first use after.

    `made` is the position at which the value is there: behind its producer.
    """

    value: int
    made: int
    last: int
    need: int


def gaps_across(problem: Problem, steps: Sequence[int], values: Iterable[int], position: int) -> tuple[Gap, ...]:
    """The gaps of `values` around `position`, the first of the backward pass.

    A value that is made again after `position` before it is read has none: nothing has to bring it back.
    """
    chosen = set(values)
    uses: defaultdict[int, list[int]] = defaultdict(list)
    makes: defaultdict[int, list[int]] = defaultdict(list)
    for at, task in enumerate(steps):
        for value in problem.accesses[task]:
            if value in chosen:
                uses[value].append(at)
        for value in problem.tasks[task].writes:
            if value in chosen and problem.values[value].origin is Origin.COMPUTED:
                makes[value].append(at)
    found = []
    for value in sorted(chosen):
        split = bisect_left(uses[value], position)
        before, after = uses[value][:split], uses[value][split:]
        made = [at for at in makes[value] if at < position]
        fresh = [at for at in makes[value] if at >= position]
        if not after or (fresh and fresh[0] < after[0]):
            continue
        born = made[-1] + 1 if made else 0
        if problem.values[value].origin is Origin.COMPUTED and not made:
            continue
        found.append(Gap(value, born, max([born - 1, *before]), after[0]))
    return tuple(found)


def travel(problem: Problem, gap: Gap, out: int, stop: int, fetch: int) -> list[Transfer]:
    """The copies of a gap: out from `out`, gone by `stop`, back from `fetch`; only the last where the host has the
    value."""
    back = Transfer(gap.value, Direction.IN, fetch, gap.need)
    if problem.values[gap.value].origin in (Origin.BATCH, Origin.CONSTANT):
        return [back]
    return [Transfer(gap.value, Direction.OUT, out, stop), back]


def feature_maps(problem: Problem, start: int) -> list[int]:
    """What may be offloaded between the passes: computed values and batch inputs that tasks from `start` on read."""
    return [
        v
        for v, info in enumerate(problem.values)
        if info.swappable
        and info.origin in (Origin.COMPUTED, Origin.BATCH)
        and any(reader >= start for reader in problem.readers[v])
    ]


def engine_order(copies: Iterable[Transfer]) -> tuple[Transfer, ...]:
    """Copies in an order that both engines can take: by start, those awaited first first."""
    return tuple(sorted(copies, key=lambda c: (c.direction is Direction.IN, c.start, c.stop)))


def ahead(backward: Sequence[int], need: int, layers: int = 1) -> int:
    """Where a prefetch for the step at `need` starts: at the `layers`-th step of the backward pass before it.

    `backward` are the positions of the steps that count as layers, ascending.
    """
    before = bisect_left(backward, need) - layers
    return backward[before] if before >= 0 else max(need - 1, 0)


def layer_positions(problem: Problem, steps: Sequence[int], start: int) -> list[int]:
    """Positions of first executions of layers from task `start` on, updates of parameters left out."""
    seen: set[int] = set()
    found = []
    for at, task in enumerate(steps):
        if task >= start and task not in seen and problem.tasks[task].phase != "update":
            found.append(at)
        seen.add(task)
    return found
