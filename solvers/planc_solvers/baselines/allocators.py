"""What the allocators of published systems would take for a schedule, beside what planc's packing takes.

Each walks the steps as the system would: a step's outputs and temporaries are taken when it begins, temporaries are
given back when it ends, values when their instance ends.
"""

from bisect import bisect_left, insort
from collections import defaultdict
from dataclasses import dataclass, field

from planc.problem.problem import Origin, Problem
from planc.schedule.residency import residencies
from planc.schedule.schedule import Schedule
from planc.units import align_up

POOL_ALIGNMENT = 512
"""Blocks of cnmem, vDNN's pool, and of SuperNeurons' heap start at multiples of 512 and 1,024 bytes; the smaller
one."""


@dataclass
class BestFitPool:
    """Blocks [begin, end) of a growing pool: the smallest free one that fits, else the pool grows at its end."""

    height: int = 0
    _free: list[tuple[int, int]] = field(default_factory=list)
    _used: dict[int, tuple[int, int]] = field(default_factory=dict)

    def take(self, key: int, size: int) -> None:
        """Allocate `size` bytes under `key`."""
        size = align_up(max(size, 1), POOL_ALIGNMENT)
        fitting = [(end - begin, begin, end) for begin, end in self._free if end - begin >= size]
        if fitting:
            _, begin, end = min(fitting)
            self._free.remove((begin, end))
            if end - begin > size:
                insort(self._free, (begin + size, end))
        else:
            begin = self.height
            if self._free and self._free[-1][1] == self.height:  # the last block is free: grow it
                begin = self._free.pop()[0]
            self.height = begin + size
        self._used[key] = (begin, begin + size)

    def give(self, key: int) -> None:
        """Free what was taken under `key`, joining free neighbours."""
        begin, end = self._used.pop(key)
        at = bisect_left(self._free, (begin, end))
        if at < len(self._free) and self._free[at][0] == end:
            end = self._free.pop(at)[1]
        if at > 0 and self._free[at - 1][1] == begin:
            begin = self._free.pop(at - 1)[0]
        insort(self._free, (begin, end))


def pool_bytes(problem: Problem, schedule: Schedule) -> int:
    """Height of a best-fit pool that serves the schedule's requests in the order in which they are made."""
    found = residencies(problem, schedule)
    begins, ends = defaultdict[int, list[int]](list), defaultdict[int, list[int]](list)
    for index, r in enumerate(found):
        begin = r.produced_by_step if r.produced_by_step is not None else r.first
        begins[begin].append(index)
        ends[max(r.end, begin + 1)].append(index)
    pool, temporary = BestFitPool(), -1
    for position, task in enumerate(schedule.steps):
        for index in ends[position]:
            pool.give(index)
        for index in begins[position]:
            pool.take(index, problem.values[found[index].value].bytes)
        made = sum(problem.values[v].bytes for v in problem.tasks[task].writes if not _is_state(problem, v))
        extra = problem.tasks[task].forms[schedule.choice(position)].working_bytes - made
        if extra > 0:
            pool.take(temporary, extra)
            pool.give(temporary)
    return pool.height


def shared_buffer_bytes(problem: Problem, schedule: Schedule) -> int:
    """Bytes of Layrub's buffers: as many as feature maps and gradients are ever on the device at once, each as large as
    the largest of them, beside what lies there for good (parameters, inputs) and one layer's temporaries."""
    found = residencies(problem, schedule)
    change, steady = defaultdict[int, int](int), 0
    largest = 0
    for r in found:
        value = problem.values[r.value]
        if value.origin is not Origin.COMPUTED:
            continue
        largest = max(largest, value.bytes)
        begin = r.produced_by_step if r.produced_by_step is not None else r.first
        change[begin] += 1
        change[max(r.end, begin + 1)] -= 1
    steady = sum(value.bytes for value in problem.values if value.origin is not Origin.COMPUTED)
    held = most = 0
    for position in range(len(schedule.steps)):
        held += change[position]
        most = max(most, held)
    return steady + most * largest + temporary_bytes(problem)


def temporary_bytes(problem: Problem) -> int:
    """The most that one task needs beside its outputs, in its default form."""
    return max(
        (
            task.working_bytes - sum(problem.values[v].bytes for v in task.writes if not _is_state(problem, v))
            for task in problem.tasks
        ),
        default=0,
    )


def _is_state(problem: Problem, value: int) -> bool:
    return problem.values[value].origin is Origin.STATE
