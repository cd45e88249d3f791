"""Residencies: the stretches during which a value's bytes are held on the device, derived from a schedule.

An instance of a value begins when its task produces it, when a copy in claims its bytes, or at position 0; it ends
after its last reader, when a copy out of it has completed, or at the end of the step. The derivation is the only place
that says which instance a step reads, so memory accounting, simulation and lowering agree.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from planc.enums import Direction
from planc.errors import InternalError
from planc.problem.problem import Origin, Problem
from planc.schedule.schedule import Schedule, Transfer


@dataclass(frozen=True, slots=True)
class ValueResidency:
    """One instance of a value on the device.

    Its bytes are held at the entry of the steps in the half-open range [`first`, `end`); an instance made by step s
    has first = s + 1, because step s itself accounts for it in its working set. `produced_by_step` is the position of
    the producing step, `produced_by_copy` and `copied_out_by` index `schedule.copies`; an instance with neither producer
    is there when the step begins. `until_step_end` instances are held past the last step.
    """

    value: int
    first: int
    end: int
    produced_by_step: int | None = None
    produced_by_copy: int | None = None
    copied_out_by: tuple[int, ...] = ()
    last_reader: int | None = None
    until_step_end: bool = False


@dataclass(slots=True)
class _Open:
    value: int
    first: int
    end: int
    step: int | None = None
    copy: int | None = None
    outs: list[int] | None = None
    reader: int | None = None
    to_end: bool = False

    def close(self) -> ValueResidency:
        outs = tuple(self.outs or ())
        return ValueResidency(self.value, self.first, self.end, self.step, self.copy, outs, self.reader, self.to_end)


class ScheduleError(InternalError):
    """A solver returned a schedule that does not compute the problem."""


class _Walk:
    """One pass over the positions of a schedule, keeping the current instance and the host copy of every value."""

    def __init__(self, problem: Problem, schedule: Schedule) -> None:
        self.problem, self.schedule = problem, schedule
        self.done: list[ValueResidency] = []
        self.current: dict[int, _Open] = {}
        self.host: set[int] = {
            v for v, value in enumerate(problem.values)
            if value.origin in (Origin.BATCH, Origin.CONSTANT) or v in schedule.host_start
        }  # fmt: skip
        self.mutated: set[int] = set()
        self.by_start: defaultdict[int, list[int]] = defaultdict(list)
        for index, copy in enumerate(schedule.copies):
            if not 0 <= copy.start <= copy.stop <= len(schedule.steps):
                raise ScheduleError(
                    f"copy {index} of {problem.values[copy.value].name!r}: start and stop are out of order"
                )
            self.by_start[copy.start].append(index)
        for direction in Direction:
            starts = [copy.start for copy in schedule.engine(direction)]
            if starts != sorted(starts):
                raise ScheduleError(f"the copies {direction} do not start in engine order")

    def run(self) -> tuple[ValueResidency, ...]:
        for value, info in enumerate(self.problem.values):
            if info.origin is not Origin.COMPUTED and value not in self.schedule.host_start:
                self.current[value] = _Open(value, 0, 0)
        for position in range(len(self.schedule.steps) + 1):
            for index in self._ordered(position):
                self._copy(index, self.schedule.copies[index])
            if position < len(self.schedule.steps):
                self._step(position, self.schedule.steps[position])
        self._finish(len(self.schedule.steps))
        return tuple(self.done)

    def _ordered(self, position: int) -> list[int]:
        """Copies that may start at `position`; outs first: a value copied out and in here reads its new host copy."""
        return sorted(self.by_start[position], key=lambda i: self.schedule.copies[i].direction is Direction.IN)

    def _name(self, value: int) -> str:
        return repr(self.problem.values[value].name)

    def _retire(self, value: int) -> None:
        open_ = self.current.pop(value, None)
        if open_ is not None:
            self.done.append(open_.close())

    def _copy(self, index: int, copy: Transfer) -> None:
        value = copy.value
        if not self.problem.values[value].swappable:
            raise ScheduleError(f"value {self._name(value)} is copied but not swappable")
        if copy.direction is Direction.OUT:
            if value not in self.current:
                raise ScheduleError(f"copy {index} moves {self._name(value)} out while it is not on the device")
            open_ = self.current[value]
            if open_.copy is not None and self.schedule.copies[open_.copy].stop > copy.start:
                raise ScheduleError(f"copy {index} moves {self._name(value)} out before it has come in")
            open_.outs = [*(open_.outs or ()), index]
            open_.end = max(open_.end, copy.stop)
            self.host.add(value)
        else:
            if value not in self.host:
                raise ScheduleError(f"copy {index} brings {self._name(value)} in, but the host has no copy of it")
            self._retire(value)
            self.current[value] = _Open(value, copy.start, copy.stop, copy=index)

    def _step(self, position: int, index: int) -> None:
        task = self.problem.tasks[index]
        for value in self.problem.accesses[index]:
            open_ = self.current.get(value)
            if open_ is None:
                raise ScheduleError(
                    f"step {position} ({task.name!r}) reads {self._name(value)}, which is not on the device"
                )
            if open_.copy is not None and self.schedule.copies[open_.copy].stop > position:
                raise ScheduleError(
                    f"step {position} ({task.name!r}) does not wait for the copy of {self._name(value)}"
                )
            self._check_version(value, position, index)
            open_.end, open_.reader = max(open_.end, position + 1), position
        for value in task.writes:
            self._write(value, position)

    def _check_version(self, value: int, position: int, index: int) -> None:
        """A task before the mutator in task order reads the old version of a state value, one after it the new one."""
        mutator = self.problem.mutator[value]
        if mutator is None or mutator == index or (value in self.mutated) == (index > mutator):
            return
        when = "after" if value in self.mutated else "before"
        raise ScheduleError(
            f"step {position} ({self.problem.tasks[index].name!r}) reads {self._name(value)} {when} its update"
        )

    def _write(self, value: int, position: int) -> None:
        if self.problem.values[value].origin is Origin.STATE:
            if value in self.mutated:
                raise ScheduleError(f"step {position} updates {self._name(value)} a second time")
            outs = self.current[value].outs or ()
            if any(self.schedule.copies[c].stop > position for c in outs):
                raise ScheduleError(f"step {position} updates {self._name(value)} while it is being copied out")
            self.mutated.add(value)
            self.host.discard(value)
            return
        self._retire(value)
        self.current[value] = _Open(value, position + 1, position + 1, step=position)

    def _finish(self, end: int) -> None:
        for value, info in enumerate(self.problem.values):
            on_device, on_host = value in self.current, value in self.host
            carried = info.origin in (Origin.STATE, Origin.CONSTANT)
            stays = carried and value not in self.schedule.host_start
            if stays and not on_device:
                raise ScheduleError(
                    f"{info.origin} {self._name(value)} starts on the device but is not there at the end"
                )
            if info.origin is Origin.STATE and not stays and not on_host:
                raise ScheduleError(
                    f"state {self._name(value)} starts on the host but its new version is not there at the end"
                )
            if info.needed_after_step and not on_device and not on_host:
                raise ScheduleError(f"output {self._name(value)} is neither on the device nor on the host at the end")
            if on_device and (stays or (info.needed_after_step and not on_host)):
                self.current[value].end, self.current[value].to_end = end + 1, True
        for value in list(self.current):
            self._retire(value)


def residencies(problem: Problem, schedule: Schedule) -> tuple[ValueResidency, ...]:
    """Every residency of `schedule`, in no particular order.

    Raises ScheduleError when a step reads a value that is not on the device, a copy reads what is not there, a copy is
    not waited for, state is updated twice or read after its update, the step ends with a value missing, or a step
    runs in a form that its task lacks.
    """
    executed = set(schedule.steps)
    missing = [task.name for index, task in enumerate(problem.tasks) if index not in executed]
    if missing:
        raise ScheduleError(f"task {missing[0]!r} is never executed")
    seen: set[int] = set()
    for position, index in enumerate(schedule.steps):
        if index in seen and not problem.tasks[index].recomputable:
            raise ScheduleError(f"step {position} repeats {problem.tasks[index].name!r}, which cannot be recomputed")
        seen.add(index)
    _check_choices(problem, schedule)
    return _Walk(problem, schedule).run()


def _check_choices(problem: Problem, schedule: Schedule) -> None:
    if not schedule.choices:
        return
    if len(schedule.choices) != len(schedule.steps):
        raise ScheduleError(f"{len(schedule.choices)} choices of form for {len(schedule.steps)} steps")
    for position, (index, choice) in enumerate(zip(schedule.steps, schedule.choices, strict=True)):
        if not 0 <= choice < len(problem.tasks[index].forms):
            raise ScheduleError(f"step {position} runs {problem.tasks[index].name!r} in form {choice}, which it lacks")


def without_idle_starts(problem: Problem, schedule: Schedule, found: Sequence[ValueResidency]) -> Schedule:
    """`schedule`, whose residencies are `found`, with every batch and constant value on the host at first whose device
    copy then would go unused: all of them, or none where the host has no room for them.

    The bytes that such a copy holds, at the start of the step and for a constant also at its end, become free.
    """
    idle = {
        r.value
        for r in found
        if problem.values[r.value].origin in (Origin.BATCH, Origin.CONSTANT)
        and r.produced_by_copy is None
        and r.last_reader is None
        and not r.copied_out_by
    }
    if not idle:
        return schedule
    leaner, limit = replace(schedule, host_start=schedule.host_start | idle), problem.host_budget_bytes
    return leaner if limit is None or host_bytes(problem, leaner) <= limit else schedule


def host_values(schedule: Schedule) -> set[int]:
    """The values that are ever on the host tier: copied, or there when the step begins."""
    return {copy.value for copy in schedule.copies} | schedule.host_start


def host_bytes(problem: Problem, schedule: Schedule) -> int:
    """Bytes of the host tier: a slot for every value that is ever there."""
    return sum(map(problem.host_bytes, host_values(schedule)))


def memory_profile(problem: Problem, schedule: Schedule, found: Sequence[ValueResidency] | None = None) -> list[int]:
    """Bytes needed at each executed step: values held at its entry plus its working set (length: number of steps).

    `found` are the residencies of `schedule` where they are known.
    """
    steps = len(schedule.steps)
    change = [0] * (steps + 2)
    for residency in residencies(problem, schedule) if found is None else found:
        if residency.end > residency.first:
            change[residency.first] += problem.values[residency.value].bytes
            change[residency.end] -= problem.values[residency.value].bytes
    profile, held = [], 0
    for position, index in enumerate(schedule.steps):
        held += change[position]
        profile.append(held + problem.tasks[index].forms[schedule.choice(position)].working_bytes)
    return profile
