"""offmate: recomputation and offloading of activations, weights and optimizer state, overlapped step by step (2024).

Zhao, Hellard, Eyraud-Dubois, Gusak and Beaumont, OffMate: full fine-tuning of LLMs on a single GPU by
re-materialization and offloading, 2024. An integer program over the steps of a training iteration: in step k a fraction
Ofl[v, k] of a value leaves and a fraction Prf[v, k] comes back; the step takes as long as the longest of its
computation with recomputation, its copies out and its copies in; memory follows from the fractions so far; the host has
a budget too.

Steps here are runs of tasks of about equal time, at most `SLOTS`, as OffMate's are blocks, not operators. A value that
idles between two uses is kept, swapped or (an activation of the forward pass) computed again when first needed. planc
copies whole values: what is swapped by more than half is swapped. Where the whole schedule is over the budget, because
fractions were rounded or because a block hides a peak, the program is solved for less.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf

import numpy as np

from planc.enums import Direction
from planc.errors import SolverTimeoutError
from planc.problem.problem import Origin, Problem
from planc.schedule.residency import memory_profile
from planc.schedule.schedule import Schedule, Transfer
from planc.schedule.solver import Candidate, SolveOptions
from planc_solvers.baselines.replay import chain_ns, droppable, replayed
from planc_solvers.baselines.selection import first_fitting
from planc_solvers.baselines.training_step import backward_start, saved_values
from planc_solvers.baselines.transfers import engine_order, gaps_across, travel
from planc_solvers.bounds.linear_model import Answer, Effort, LinearModel

SLOTS = 36
"""Steps of the program."""

SHARES = (1.0, 0.95, 0.9, 0.83, 0.75, 0.65, 0.5, 0.35)
"""Parts of the budget for which the program is solved until the schedule fits."""


SMALLEST = 5e-4
"""Values below this part of the peak stay: there are many, and they make next to no room."""

_US, _MB, _HALF = 1e-3, 1e-6, 0.5
"""Units of the program, so that its numbers are of similar size; what is swapped or recomputed by more than half,
is."""


@dataclass(frozen=True, slots=True)
class Idle:
    """A stretch in which a value idles: tasks of its last use before and its first use after.

    One that `wraps` lasts from the last use of a step to the first of the next, over the step's end.
    """

    value: int
    last: int
    need: int
    wraps: bool


class Offmate:
    """The program, rounded."""

    def solve(self, problem: Problem, options: SolveOptions) -> Candidate:
        """Raises InfeasibleBudgetError when no rounding fits the budget, SolverTimeoutError when none was found in time."""
        return first_fitting("offmate", problem, _schedules(problem, options))


def _schedules(problem: Problem, options: SolveOptions) -> Iterator[Schedule]:
    yield Schedule(tuple(range(len(problem.tasks))))
    ends = options.clock.now() + max(options.time_limit_s, options.patience_s)
    program = Program(problem).build()
    for share in SHARES:
        left = ends - options.clock.now()
        if left <= 0:
            raise SolverTimeoutError("offmate found no schedule within the time limit; allow more time or choose mip")
        program.limit(int(problem.budget_bytes * share))
        answer = program.model.solve(Effort(left, clock=options.clock), relaxed=True, staged=True)
        if answer.infeasible:
            return  # and so it is for less
        if answer.point is not None:
            yield from (program.schedule(answer, early) for early in (1, 0))


@dataclass(frozen=True)
class Travel:
    """Variables of an idle stretch by position in its `window` of slots: fractions that have left and come back so far.

    `left` is empty where the host has the value anyway.
    """

    window: tuple[int, ...]
    swapped: int
    left: tuple[int, ...]
    back: tuple[int, ...]

    def during(self, position: int, out: bool) -> list[tuple[int, float]]:
        """What travels in one slot, as terms."""
        so_far = self.left if out else self.back
        if not so_far:
            return []
        return [(so_far[position], 1.0), *([(so_far[position - 1], -1.0)] if position else [])]


@dataclass
class Program:
    """Variables by idle stretch: its travel, and whether it is computed again; and rows by the task that they make room
    for."""

    problem: Problem
    model: LinearModel = field(default_factory=LinearModel)
    travels: dict[Idle, Travel] = field(default_factory=dict)
    again: dict[Idle, int] = field(default_factory=dict)
    room: dict[int, int] = field(default_factory=dict)

    def build(self) -> "Program":
        """Fill in the program, but for the memory that it may take."""
        problem = self.problem
        self.start = backward_start(problem)
        ends = np.cumsum([task.duration_ns for task in problem.tasks])
        self.slot = np.minimum(((ends - 1) * SLOTS // max(int(ends[-1]), 1)), SLOTS - 1).tolist()
        made = {v for v, p in enumerate(problem.producer) if p is not None and p < self.start}
        self.free = droppable(problem, made, self.start)
        self.hidden = self.free - {s.value for s in saved_values(problem, self.start)}
        self.profile = memory_profile(problem, Schedule(tuple(range(len(problem.tasks)))))
        least = max(self.profile) * SMALLEST
        self.idles = tuple(i for i in _idles(problem, self.start) if problem.values[i.value].bytes >= least)
        for idle in self.idles:
            self._add_idle(idle)
        self._add_recomputation()
        self._add_times()
        self._add_memory()
        return self

    def limit(self, budget: int) -> None:
        """Let the program take `budget` bytes, in place of what it might take before."""
        for task, row in self.room.items():
            excess = self.profile[task] - budget
            self.model.row_lower[row] = excess * _MB if excess > 0 else -inf

    def _add_idle(self, idle: Idle) -> None:
        if self.problem.values[idle.value].swappable:
            self.travels[idle] = self._travel(idle)
        if not idle.wraps and idle.value in self.free:
            self.again[idle] = self.model.variable(0, 1)
        if idle in self.travels and idle in self.again:
            self.model.row([(self.travels[idle].swapped, 1.0), (self.again[idle], 1.0)], upper=1)

    def _travel(self, idle: Idle) -> Travel:
        """Fractions grow from slot to slot up to what is swapped; nothing comes back before it has left."""
        model, window = self.model, self._window(idle)
        swapped = model.variable(0, 1)
        leaves = self._leaves(idle.value)
        left = tuple(model.variable(0, 1) for _ in window) if leaves else ()
        back = tuple(model.variable(0, 1) for _ in window)
        for so_far in filter(None, (left, back)):
            for earlier, later in pairwise(so_far):
                model.row([(later, 1.0), (earlier, -1.0)], lower=0)
            model.row([(so_far[-1], 1.0), (swapped, -1.0)], lower=0, upper=0)
        for gone, here in zip(left, back, strict=False):
            model.row([(gone, 1.0), (here, -1.0)], lower=0)
        return Travel(window, swapped, left, back)

    def _leaves(self, value: int) -> bool:
        """Whether the host needs a copy first: it has one of what is only read."""
        origin = self.problem.values[value].origin
        return origin is Origin.COMPUTED or (origin is Origin.STATE and self.problem.mutator[value] is not None)

    def _window(self, idle: Idle) -> tuple[int, ...]:
        """Slots in which the value may travel, in order of time; over the step's end where the stretch wraps."""
        first, last = self.slot[idle.last], self.slot[idle.need]
        return (*range(first, SLOTS), *range(last + 1)) if idle.wraps else tuple(range(first, last + 1))

    def _add_recomputation(self) -> None:
        """What is made again does not wait for inputs that are only fetched later."""
        by_value = {idle.value: idle for idle in self.idles if not idle.wraps}
        for idle, again in self.again.items():
            for value in self._sources(self.problem.producer[idle.value] or 0):
                source = by_value.get(value)
                if source is not None and source in self.travels and source.need > idle.need:
                    self.model.row([(again, 1.0), (self.travels[source].swapped, 1.0)], upper=1)

    def _sources(self, task: int) -> set[int]:
        """Saved values from which a task's results are made, through what is not saved."""
        found, open_ = set[int](), [task]
        while open_:
            for value in self.problem.tasks[open_.pop()].reads:
                producer = self.problem.producer[value]
                if value in self.hidden and producer is not None:
                    open_.append(producer)
                else:
                    found.add(value)
        return found

    def _add_times(self) -> None:
        """A slot takes as long as its computation, its copies out and its copies in: the longest counts."""
        problem, model = self.problem, self.model
        compute = [0] * SLOTS
        for task, info in enumerate(problem.tasks):
            compute[self.slot[task]] += info.duration_ns
        repeats: list[list[tuple[int, float]]] = [[] for _ in range(SLOTS)]
        for idle, again in self.again.items():
            cost = chain_ns(problem, idle.value, self.hidden | {idle.value})
            repeats[self.slot[idle.need]].append((again, -cost * _US))
        copies: list[list[dict[int, float]]] = [[{} for _ in range(SLOTS)] for _ in range(2)]
        for idle, travel_ in self.travels.items():
            value = problem.values[idle.value]
            for position, k in enumerate(travel_.window):
                for out, ns in ((True, value.copy_out_ns), (False, value.copy_in_ns)):
                    for var, sign in travel_.during(position, out):
                        terms = copies[out][k]
                        terms[var] = terms.get(var, 0.0) - sign * ns * _US
        for k in range(SLOTS):
            time = model.variable(0, 1e15, 1.0)
            model.row([(time, 1.0), *repeats[k]], lower=compute[k] * _US)
            for direction in copies:
                model.row([(time, 1.0), *direction[k].items()], lower=0)

    def _add_memory(self) -> None:
        """In every slot, at its fullest task, what is away by then makes room; the host's limit holds in all."""
        fullest: dict[int, int] = {}
        for task, need in enumerate(self.profile):
            k = self.slot[task]
            if k not in fullest or need > self.profile[fullest[k]]:
                fullest[k] = task
        for task in fullest.values():
            self._make_room(task)
        limit = self.problem.host_budget_bytes
        if limit is not None:
            terms = [(t.swapped, self.problem.host_bytes(idle.value) * _MB) for idle, t in self.travels.items()]
            self.model.row(terms, upper=limit * _MB)

    def _make_room(self, task: int) -> None:
        terms: list[tuple[int, float]] = []
        for idle in self.idles:
            inside = (task > idle.last or task < idle.need) if idle.wraps else idle.last < task < idle.need
            if not inside:
                continue
            size = self.problem.values[idle.value].bytes * _MB
            if idle in self.again:
                terms.append((self.again[idle], size))
            if idle in self.travels:
                terms += self._away(idle, task, size)
        self.room[task] = self.model.row(terms)

    def _away(self, idle: Idle, task: int, size: float) -> list[tuple[int, float]]:
        """Away at a task: what left in slots before its own, less what came back up to its own."""
        travel_, slot = self.travels[idle], self.slot[task]
        window = travel_.window
        now = len(window) - 1 - window[::-1].index(slot) if task < idle.need else window.index(slot)
        back = (travel_.back[now], -size)
        if not travel_.left:
            return [(travel_.swapped, size), back]
        return [(travel_.left[now - 1], size), back] if now else [back]

    def schedule(self, answer: Answer, early: int) -> Schedule:
        """The decisions as a schedule: copies start where the program starts them, and those that it lets share a slot
        with their need `early` tasks before that."""
        point = answer.point if answer.point is not None else np.zeros(len(self.model.cost))
        problem = self.problem
        again = {idle.value for idle, var in self.again.items() if point[var] > _HALF}
        chosen = [idle for idle, t in self.travels.items() if point[t.swapped] > _HALF]
        dropped = droppable(problem, (again | self.hidden) if again else (), self.start)
        steps = replayed(problem, dropped, self.start)
        place = {task: at for at, task in reversed(list(enumerate(steps)))}
        middle = {idle.value: idle for idle in chosen if not idle.wraps}
        around = [idle for idle in chosen if idle.wraps]
        home = frozenset(idle.value for idle in around)
        copies = list[Transfer]()
        for gap in gaps_across(problem, steps, middle.keys() - dropped, self.start):
            begin, done = self._times(point, middle[gap.value], place)
            fetch = min(max(begin, gap.last + 1), gap.need - early)
            out = max(gap.last + (gap.value in home), gap.made)  # what has just come in leaves a task later
            if gap.last < fetch:
                copies += travel(problem, gap, out, max(out, min(max(done, gap.last + 1), fetch)), fetch)
        for idle in around:
            copies += self._around(point, idle, place, len(steps), early)
        return Schedule(steps, engine_order(copies), home)

    def _times(self, point: np.ndarray, idle: Idle, place: dict[int, int]) -> tuple[int, int]:
        """Positions: where the program's copy in begins, and behind the slot in which its copy out ends."""
        travel_ = self.travels[idle]
        total = point[travel_.swapped]
        begin = next((k for k, var in zip(travel_.window, travel_.back, strict=True) if point[var] > 1e-6), SLOTS)
        done = next((k for k, var in zip(travel_.window, travel_.left, strict=False) if point[var] >= total - 1e-6), 0)
        return self._first(begin, place), self._first(done + 1, place)

    def _around(self, point: np.ndarray, idle: Idle, place: dict[int, int], end: int, early: int) -> list[Transfer]:
        """Copies of a value that starts on the host: in before its first use, out after its last if it was changed."""
        need, (begin, _) = place[idle.need], self._times(point, idle, place)
        wraps = begin > need  # it comes back before the step ends, which a schedule cannot: at once, then
        copies = [Transfer(idle.value, Direction.IN, 0 if wraps else min(begin, max(need - early, 0)), need)]
        if self.problem.mutator[idle.value] is not None:
            copies.append(Transfer(idle.value, Direction.OUT, place[idle.last] + 1, end))
        return copies

    def _first(self, slot: int, place: dict[int, int]) -> int:
        """Position of the first task from a slot on."""
        return min((place[t] for t, k in enumerate(self.slot) if k >= slot), default=len(self.slot))


def _idles(problem: Problem, start: int) -> Iterator[Idle]:
    """Stretches across the beginning of the backward pass, and over the step's end for what lives from step to step."""
    for value, info in enumerate(problem.values):
        made = problem.producer[value]
        uses = sorted({*problem.readers[value], *(t for t in (made, problem.mutator[value]) if t is not None)})
        before, after = [t for t in uses if t < start], [t for t in uses if t >= start]
        if before and after and after[0] > before[-1] + 1:
            yield Idle(value, before[-1], after[0], False)
        if info.origin in (Origin.STATE, Origin.CONSTANT) and uses and info.swappable:
            yield Idle(value, uses[-1], uses[0], True)
