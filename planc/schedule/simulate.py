"""Event-driven simulation of the engines: compute, copies out, copies in, exchanges; each takes its actions in order.

A step waits for the copies whose `stop` it is. A copy waits for the steps before its `start`; a copy in also waits for
every copy out with stop ≤ start (those release the bytes it may claim) and for the copy out that made its host copy; a
copy out of an instance that was brought in waits for that copy in. Engines that run together slow each other down as
the problem's `Contention` says; rates are constant between events, so the simulation is exact for that model. A step at
a position where copies or exchanges start or are awaited, or where the form changes, takes `boundary_ns` longer.
An exchange begins once the steps are done that make what it sums, and is awaited by its own step.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from planc.enums import Direction
from planc.problem.problem import Contention, Problem
from planc.schedule.residency import ScheduleError, ValueResidency, residencies
from planc.schedule.schedule import Schedule

_PPM = 1_000_000


@dataclass(frozen=True, slots=True)
class Timeline:
    """Predicted start and end of every action in ns; `copies` follows `schedule.copies`, `exchanges`
    the function of that name.

    `step_ns` ends with the last action of any engine; `stall_ns` is the time during which compute waited.
    """

    step_ns: int
    stall_ns: int
    steps: tuple[tuple[int, int], ...]
    copies: tuple[tuple[int, int], ...]
    exchanges: tuple[tuple[int, int], ...] = ()


def copy_dependencies(
    problem: Problem, schedule: Schedule, found: Sequence[ValueResidency] | None = None
) -> list[tuple[int, ...]]:
    """For each copy the other copies (indices into `schedule.copies`) that it waits for besides its engine's order.

    `found` are the residencies of `schedule` where they are known.
    """
    needs: list[set[int]] = [set() for _ in schedule.copies]
    stops, last_of = _copies_out_by_stop(schedule)
    latest_out: dict[int, int] = {}
    order = sorted(
        range(len(schedule.copies)),
        key=lambda i: (schedule.copies[i].start, schedule.copies[i].direction is Direction.IN),
    )
    for index in order:
        copy = schedule.copies[index]
        if copy.direction is Direction.OUT:
            latest_out[copy.value] = index
            continue
        freed = bisect_left(stops, copy.start + 1)
        if freed:
            needs[index].add(last_of[freed - 1])
        if copy.value in latest_out:
            needs[index].add(latest_out[copy.value])
    for residency in residencies(problem, schedule) if found is None else found:
        if residency.produced_by_copy is not None:
            for out in residency.copied_out_by:
                needs[out].add(residency.produced_by_copy)
    return [tuple(sorted(need)) for need in needs]


def _copies_out_by_stop(schedule: Schedule) -> tuple[list[int], list[int]]:
    """Where copies out stop, in order; and for each, of those that stop no later, the last in the engine's order."""
    outs = [i for i, c in enumerate(schedule.copies) if c.direction is Direction.OUT]
    rank = {index: at for at, index in enumerate(outs)}
    outs.sort(key=lambda i: schedule.copies[i].stop)
    last_of: list[int] = []
    for index in outs:
        last_of.append(max(index, last_of[-1], key=rank.__getitem__) if last_of else index)
    return [schedule.copies[i].stop for i in outs], last_of


def exchanges(problem: Problem, schedule: Schedule) -> list[tuple[int, int]]:
    """For each exchange, in engine order, the position from which on it may run and the step that awaits it."""
    found: list[tuple[int, int]] = []
    if not any(task.exchange_ns for task in problem.tasks):
        return found
    made: dict[int, int] = {}
    earliest = 0
    for position, index in enumerate(schedule.steps):
        task = problem.tasks[index]
        if task.exchange_ns:
            earliest = max([earliest, *(made[value] for value in task.reads if value in made)])
            found.append((earliest, position))
        made |= dict.fromkeys(task.writes, position + 1)
    return found


def boundaries(problem: Problem, schedule: Schedule) -> frozenset[int]:
    """Positions strictly inside the schedule where a copy starts or is awaited or the form changes: segments end there."""
    ends = {position for copy in schedule.copies for position in (copy.start, copy.stop)}
    ends |= {position for exchange in exchanges(problem, schedule) for position in exchange}
    return frozenset((ends - {0, len(schedule.steps)}) | form_changes(problem, schedule))


def form_changes(problem: Problem, schedule: Schedule) -> frozenset[int]:
    """Positions of the steps that run in another form than the step with a choice before them.

    A task without alternatives runs among the steps of any form.
    """
    found: set[int] = set()
    form: str | None = None
    for position, index in enumerate(schedule.steps):
        task = problem.tasks[index]
        if task.alternatives:
            name = task.forms[schedule.choice(position)].name
            if form not in (None, name):
                found.add(position)
            form = name
    return frozenset(found)


@dataclass(slots=True)
class _Engine:
    """One in-order queue of actions with the action under way."""

    actions: list[int]
    work: list[float]
    next: int = 0
    remaining: float = 0.0
    running: bool = False

    @property
    def head(self) -> int:
        return self.actions[self.next]


class _Simulation:
    """State of the four engines; engine 0 computes, 1 copies out, 2 copies in, 3 exchanges."""

    def __init__(self, problem: Problem, schedule: Schedule, found: Sequence[ValueResidency] | None) -> None:
        self.contention: Contention = problem.contention
        self.schedule = schedule
        self.needs = copy_dependencies(problem, schedule, found)
        copies = schedule.copies
        duration = [
            problem.values[c.value].copy_out_ns if c.direction is Direction.OUT else problem.values[c.value].copy_in_ns
            for c in copies
        ]
        cuts = boundaries(problem, schedule) if problem.boundary_ns else frozenset()
        steps = [
            float(problem.tasks[t].forms[schedule.choice(p)].duration_ns + (problem.boundary_ns if p in cuts else 0))
            for p, t in enumerate(schedule.steps)
        ]
        self.engines = [_Engine(list(range(len(steps))), steps)]
        for direction in (Direction.OUT, Direction.IN):
            mine = [i for i, c in enumerate(copies) if c.direction is direction]
            self.engines.append(_Engine(mine, [float(duration[i]) for i in mine]))
        self.exchanges = exchanges(problem, schedule)
        lasts = [float(problem.tasks[schedule.steps[at]].exchange_ns) for _, at in self.exchanges]
        self.engines.append(_Engine(list(range(len(lasts))), lasts))
        self.exchange_of = {at: index for index, (_, at) in enumerate(self.exchanges)}
        self.exchange_times = [(0, 0)] * len(lasts)
        self.awaited: list[list[int]] = [[] for _ in range(len(steps) + 1)]
        for index, copy in enumerate(copies):
            self.awaited[copy.stop].append(index)
        self.copy_done = [False] * len(copies)
        self.step_times = [(0, 0)] * len(steps)
        self.copy_times = [(0, 0)] * len(copies)
        self.now = 0.0

    def _ready(self, kind: int, head: int) -> bool:
        steps_done = self.engines[0].next
        if kind == 0:
            exchanged = self.exchange_of.get(head, -1) < self.engines[3].next
            return exchanged and all(self.copy_done[c] for c in self.awaited[head])
        if kind == 3:
            return steps_done >= self.exchanges[head][0]
        return steps_done >= self.schedule.copies[head].start and all(self.copy_done[c] for c in self.needs[head])

    def _start_idle(self) -> None:
        for kind, engine in enumerate(self.engines):
            if not engine.running and engine.next < len(engine.actions) and self._ready(kind, engine.head):
                engine.running, engine.remaining = True, engine.work[engine.next]
                self._times(kind)[engine.head] = (round(self.now), 0)

    def _slowness(self, kind: int) -> float:
        compute, out, in_, exchange = (engine.running for engine in self.engines)
        c = self.contention
        if kind == 0:
            ppm = c.compute_two_copies_ppm if out and in_ else c.compute_one_copy_ppm if out or in_ else 0
            ppm += c.compute_exchange_ppm if exchange else 0
        elif kind == 3:
            ppm = (c.exchange_compute_ppm if compute else 0) + (c.exchange_copy_ppm if out or in_ else 0)
        else:
            ppm = (c.copy_duplex_ppm if out and in_ else 0) + (c.copy_compute_ppm if compute else 0)
            ppm += c.copy_exchange_ppm if exchange else 0
        return 1 + ppm / _PPM

    def _times(self, kind: int) -> list[tuple[int, int]]:
        return (self.step_times, self.copy_times, self.copy_times, self.exchange_times)[kind]

    def _advance(self) -> None:
        running = [(kind, engine) for kind, engine in enumerate(self.engines) if engine.running]
        if not running:
            raise ScheduleError("the engines wait for each other: the schedule deadlocks")
        slowness = {kind: self._slowness(kind) for kind, _ in running}
        delta = min(engine.remaining * slowness[kind] for kind, engine in running)
        self.now += delta
        for kind, engine in running:
            engine.remaining -= delta / slowness[kind]
            if engine.remaining <= 1e-6:
                times = self._times(kind)
                times[engine.head] = (times[engine.head][0], round(self.now))
                if kind in (1, 2):
                    self.copy_done[engine.head] = True
                engine.running = False
                engine.next += 1

    def run(self) -> Timeline:
        while any(engine.next < len(engine.actions) for engine in self.engines):
            self._start_idle()
            self._advance()
        busy = sum(end - start for start, end in self.step_times)
        total = round(self.now)
        return Timeline(total, total - busy, tuple(self.step_times), tuple(self.copy_times), tuple(self.exchange_times))


def simulate(problem: Problem, schedule: Schedule, found: Sequence[ValueResidency] | None = None) -> Timeline:
    """Predicted times of `schedule`, whose residencies are `found` where they are known.

    Raises ScheduleError when it does not compute the problem or deadlocks.
    """
    return _Simulation(problem, schedule, found).run()


def unlimited_ns(problem: Problem) -> int:
    """Predicted step where memory is no matter: every task once, in the given order and as it stands, nothing copied.

    Of a step of several ranks that includes what compute waits for exchanges, and loses beside them.
    """
    if not any(task.exchange_ns for task in problem.tasks):
        return problem.base_duration_ns
    return simulate(problem, Schedule(tuple(range(len(problem.tasks)))), ()).step_ns
