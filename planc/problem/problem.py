"""The planning problem: what a solver sees of a training step. Integers only, bytes and nanoseconds.

A *task* is a layer (or one node of a bare instance); a *value* is a storage that lives across tasks. Memory is counted
at the entry of each executed task: the bytes of all values held there, plus the task's own `working_bytes`, must not
exceed the budget. Copies run on two in-order engines, one a direction, beside compute.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from planc.units import align_up


class Origin(StrEnum):
    """Where a value's content comes from."""

    COMPUTED = "computed"
    """Written by its one producer task."""

    BATCH = "batch"
    """Fed by the caller: a host copy always exists; the device copy may be there from the start of the step."""

    STATE = "state"
    """Carried from step to step and mutated in place by at most one task; it starts where it ended."""

    CONSTANT = "constant"
    """Never written; a host copy always exists."""


@dataclass(frozen=True, slots=True)
class Value:
    """A storage of `bytes` that lives across tasks.

    `copy_out_ns` and `copy_in_ns` are the durations of one whole transfer to and from the host tier, alone on the link.
    A value that is `needed_after_step` (a graph output) must lie on the device or on the host when the step ends.
    """

    name: str
    bytes: int
    origin: Origin = Origin.COMPUTED
    swappable: bool = False
    copy_out_ns: int = 0
    copy_in_ns: int = 0
    needed_after_step: bool = False


@dataclass(frozen=True, slots=True)
class Alternative:
    """Another way to execute a task, with results of the same meaning: its time (ns) and its working bytes."""

    name: str
    duration_ns: int
    working_bytes: int


@dataclass(frozen=True, slots=True)
class Task:
    """One layer. `reads` and `writes` index the problem's values, without repetition.

    A STATE value in `writes` is mutated in place, so it must be on the device as if read; every other written value is
    produced. `working_bytes` is the peak of the task over the bytes held at its entry: its outputs, temporaries, and
    whatever of its inputs dies inside. Which of its `forms` a task takes is a decision, made anew at each execution.
    `kind` is what the layer is (`conv`, `relu`) and `phase` its part of a training step (`forward`, `backward`,
    `update`), where that is known.
    """

    name: str
    duration_ns: int
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    working_bytes: int
    recomputable: bool = False
    alternatives: tuple[Alternative, ...] = ()
    kind: str = ""
    phase: str = ""
    exchange_ns: int = 0
    """How long the exchange engine works for the task, alone, from when everything that it reads is made; the task waits
    for that. 0 for a task that exchanges nothing."""

    @property
    def forms(self) -> tuple[Alternative, ...]:
        """The ways to execute the task, by choice: 0 is the task as it stands, k its alternative k - 1."""
        return (Alternative("", self.duration_ns, self.working_bytes), *self.alternatives)


@dataclass(frozen=True, slots=True)
class Contention:
    """Slow-down while engines run together, in parts per million of the time alone.

    `compute_one_copy_ppm` = 40_000 says that compute takes 4 % longer while one copy runs. Copies slow each other down
    when both directions run, and compute slows a copy down. `a_b_ppm` is what a takes longer beside b.
    """

    compute_one_copy_ppm: int = 0
    compute_two_copies_ppm: int = 0
    copy_duplex_ppm: int = 0
    copy_compute_ppm: int = 0
    compute_exchange_ppm: int = 0
    copy_exchange_ppm: int = 0
    exchange_compute_ppm: int = 0
    exchange_copy_ppm: int = 0


@dataclass(frozen=True)
class Problem:
    """Tasks in the given (valid) order, their values, and the bytes that values and working sets may take."""

    tasks: tuple[Task, ...]
    values: tuple[Value, ...]
    budget_bytes: int
    host_budget_bytes: int | None = None
    """Most bytes of the host tier, where every value that is ever there has a slot of its own; None for no limit."""
    host_alignment: int = 1
    """Slots of the host tier take multiples of this many bytes."""
    contention: Contention = field(default_factory=Contention)
    boundary_ns: int = 0
    """Compute time lost at every position between two steps where a copy starts or is awaited: a segment's cut."""

    @cached_property
    def producer(self) -> tuple[int | None, ...]:
        """For each value the task that produces it; None for batch, state and constant values."""
        made: list[int | None] = [None] * len(self.values)
        for index, task in enumerate(self.tasks):
            for value in task.writes:
                if self.values[value].origin is Origin.COMPUTED:
                    made[value] = index
        return tuple(made)

    @cached_property
    def mutator(self) -> tuple[int | None, ...]:
        """For each value the task that mutates it in place; None where none does."""
        mutates: list[int | None] = [None] * len(self.values)
        for index, task in enumerate(self.tasks):
            for value in task.writes:
                if self.values[value].origin is Origin.STATE:
                    mutates[value] = index
        return tuple(mutates)

    @cached_property
    def readers(self) -> tuple[tuple[int, ...], ...]:
        """For each value the tasks that read it, in task order."""
        found: list[list[int]] = [[] for _ in self.values]
        for index, task in enumerate(self.tasks):
            for value in task.reads:
                found[value].append(index)
        return tuple(map(tuple, found))

    @cached_property
    def base_duration_ns(self) -> int:
        """Compute time of every task once, as it stands."""
        return sum(task.duration_ns for task in self.tasks)

    @cached_property
    def least_duration_ns(self) -> int:
        """Compute time of every task once, each in its fastest form: no schedule is faster."""
        return sum(min(form.duration_ns for form in task.forms) for task in self.tasks)

    @cached_property
    def accesses(self) -> tuple[tuple[int, ...], ...]:
        """For each task the values on the device when it starts: what it reads, then what it only mutates."""
        return tuple(
            task.reads + tuple(v for v in task.writes if self.values[v].origin is Origin.STATE and v not in task.reads)
            for task in self.tasks
        )

    def entry_bytes(self, task: int) -> int:
        """Bytes that no schedule can avoid while `task` runs: what it accesses plus its smallest working set."""
        working = min(form.working_bytes for form in self.tasks[task].forms)
        return sum(self.values[v].bytes for v in self.accesses[task]) + working

    def host_bytes(self, value: int) -> int:
        """Bytes of the value's slot on the host tier."""
        return align_up(self.values[value].bytes, self.host_alignment)
