"""A problem and its plans as flat arrays, the form on which the compiled search works.

A *plan* is a free-form sequence of tasks (a repeated task is a recomputation) with a decision on every gap between two
accesses of a value: kept, or *fetched*, which says that the value is dropped after the earlier access and copied in
for the later one. A value's *home* says the same of the gap around the step's end: its state, batch or constant content
starts on the host; a needed output ends there. Everything else (copies out, positions, times) follows from the plan.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from planc.compiled.packed import Packed
from planc.problem.problem import Origin, Problem

Ints = npt.NDArray[np.int64]
Bytes8 = npt.NDArray[np.uint8]

COMPUTED, BATCH, STATE, CONSTANT = range(4)
_ORIGIN = {Origin.COMPUTED: COMPUTED, Origin.BATCH: BATCH, Origin.STATE: STATE, Origin.CONSTANT: CONSTANT}
UNLIMITED = 1 << 62
BATCH_POWER = 4
"""Power that a new plan begins with: see `SearchPlan.batch`."""

MOST_FORMS = 255
"""Forms of a task that the search considers."""


@dataclass(frozen=True, eq=False)
class Arrays(Packed):
    """A problem. Per-task lists are stored as `list[ptr[t]:ptr[t + 1]]`; times in ns, sizes in bytes."""

    duration: Ints
    """Of each task as it stands."""
    form_ptr: Ints
    """A task's forms; the first is the task as it stands."""
    form_ns: Ints
    form_bytes: Ints
    form_name: Ints
    """Equal for forms of one name."""
    recomputable: Bytes8
    deadline: Ints
    """First task (index) after whose first execution this one must not be recomputed; the number of tasks if none."""
    read_ptr: Ints
    reads: Ints
    """Values accessed: read, or mutated."""
    write_ptr: Ints
    writes: Ints
    """Values produced."""
    mutate_ptr: Ints
    mutates: Ints
    size: Ints
    host_size: Ints
    """Bytes of each value's slot on the host."""
    out_ns: Ints
    in_ns: Ints
    origin: Ints
    swappable: Bytes8
    needed: Bytes8
    producer: Ints
    """Producing task of each value, -1 for batch, state and constant values."""
    budget: int
    host_budget: int
    one_copy: float
    two_copies: float
    duplex: float
    copy_compute: float
    boundary: float
    exchange_ns: Ints
    """How long the exchange engine works for each task, 0 for one that exchanges nothing."""
    compute_exchange: float
    copy_exchange: float
    exchange_compute: float
    exchange_copy: float


@dataclass(frozen=True, eq=False)
class SearchPlan(Packed):
    """Decision arrays with spare room; `fetch` holds one bit for each accessed value of a step, 64 a word."""

    seq: Ints
    choice: Bytes8
    """Form in which each step runs."""
    fetch: npt.NDArray[np.uint64]
    home: Bytes8
    length: Ints
    """One number: the steps in use."""
    batch: Ints
    """One number: copies out start together until they take 2 to this power boundaries' time."""


def csr(lists: Iterable[Iterable[int]]) -> tuple[Ints, Ints]:
    """Lists end to end: list i is `flat[pointers[i]:pointers[i + 1]]`, given as (pointers, flat)."""
    pointers, flat = [0], list[int]()
    for items in lists:
        flat.extend(items)
        pointers.append(len(flat))
    return np.array(pointers, np.int64), np.array(flat, np.int64)


def arrays_of(problem: Problem) -> Arrays:
    """The arrays of `problem`; durations, sizes and indices are unchanged."""
    tasks, values = problem.tasks, problem.values
    read_ptr, reads = csr(problem.accesses)
    write_ptr, writes = csr([v for v in t.writes if values[v].origin is Origin.COMPUTED] for t in tasks)
    mutate_ptr, mutates = csr([v for v in t.writes if values[v].origin is Origin.STATE] for t in tasks)
    forms = [task.forms[:MOST_FORMS] for task in tasks]
    form_ptr, form_ns = csr([form.duration_ns for form in some] for some in forms)
    names = {name: i for i, name in enumerate(dict.fromkeys(form.name for some in forms for form in some))}
    link = problem.contention
    return Arrays(
        duration=np.array([t.duration_ns for t in tasks], np.int64),
        form_ptr=form_ptr,
        form_ns=form_ns,
        form_bytes=np.array([form.working_bytes for some in forms for form in some], np.int64),
        form_name=np.array([names[form.name] for some in forms for form in some], np.int64),
        recomputable=np.array(
            [t.recomputable and mutate_ptr[i] == mutate_ptr[i + 1] for i, t in enumerate(tasks)], np.uint8
        ),
        deadline=deadlines(problem),
        read_ptr=read_ptr,
        reads=reads,
        write_ptr=write_ptr,
        writes=writes,
        mutate_ptr=mutate_ptr,
        mutates=mutates,
        size=np.array([v.bytes for v in values], np.int64),
        host_size=np.array([problem.host_bytes(v) for v in range(len(values))], np.int64),
        out_ns=np.array([v.copy_out_ns for v in values], np.int64),
        in_ns=np.array([v.copy_in_ns for v in values], np.int64),
        origin=np.array([_ORIGIN[v.origin] for v in values], np.int64),
        swappable=np.array([v.swappable for v in values], np.uint8),
        needed=np.array([v.needed_after_step for v in values], np.uint8),
        producer=np.array([-1 if p is None else p for p in problem.producer], np.int64),
        budget=problem.budget_bytes,
        host_budget=UNLIMITED if problem.host_budget_bytes is None else problem.host_budget_bytes,
        one_copy=1 + link.compute_one_copy_ppm / 1e6,
        two_copies=1 + link.compute_two_copies_ppm / 1e6,
        duplex=link.copy_duplex_ppm / 1e6,
        copy_compute=link.copy_compute_ppm / 1e6,
        boundary=float(problem.boundary_ns),
        exchange_ns=np.array([t.exchange_ns for t in tasks], np.int64),
        compute_exchange=link.compute_exchange_ppm / 1e6,
        copy_exchange=link.copy_exchange_ppm / 1e6,
        exchange_compute=link.exchange_compute_ppm / 1e6,
        exchange_copy=link.exchange_copy_ppm / 1e6,
    )


def deadlines(problem: Problem) -> Ints:
    """For each task the first one after which it must not run again: it updates state that the task reads."""
    found = np.full(len(problem.tasks), len(problem.tasks), np.int64)
    for task, accessed in enumerate(problem.accesses):
        for value in accessed:
            mutator = problem.mutator[value]
            if mutator is not None and task < mutator:
                found[task] = min(found[task], mutator)
    return found


def empty_plan(arrays: Arrays) -> SearchPlan:
    """The plan that keeps everything and recomputes nothing, with room for recomputations."""
    tasks, values = arrays.duration.size, arrays.size.size
    room = step_capacity(arrays)
    width = int(np.diff(arrays.read_ptr).max(initial=1))
    sequence = np.zeros(room, np.int64)
    sequence[:tasks] = np.arange(tasks)
    words = np.zeros((room, -(-max(width, 1) // 64)), np.uint64)
    return SearchPlan(
        sequence,
        np.zeros(room, np.uint8),
        words,
        np.zeros(values, np.uint8),
        np.array([tasks]),
        np.array([BATCH_POWER]),
    )


def step_capacity(arrays: Arrays) -> int:
    """Steps that a plan may have: room for every task to be recomputed twice."""
    return 3 * arrays.duration.size + 64
