"""Checkmate's mixed-integer model of rematerialisation, with paging where POET wants it.

Stage t ends with the first execution of task t. R[t, i] says that task i runs in stage t, S[t, v] that value v is there
when the stage begins, F[t, k, v] that v is freed behind task k of the stage, H[t, k] the bytes held when task k would
begin. Paging adds In[t, v] (v is fetched when stage t begins), Out[t, v] (v is copied out during it) and D[t, v] (the
host has it). Tasks here may have several outputs and need more than these while they run; both follow from the problem.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from planc.errors import PolicyScopeError
from planc.problem.problem import Origin, Problem
from planc.schedule.solver import SolveOptions
from planc_solvers.baselines.replay import last_needs
from planc_solvers.baselines.training_step import deadlines
from planc_solvers.bounds.linear_model import Answer, Effort, LinearModel

Point = npt.NDArray[np.float64]
Key = tuple[int, int]

COPY_PRICE = 1e-4
"""What a nanosecond of copying costs beside one of computing: POET's copies take no time, so this breaks ties only."""


_SCALE = 1e4
"""Largest number of bytes or ns in the model."""

_MARGIN = 1e-7
"""Part of the budget that is left to a solver's rounding."""


@dataclass
class StageModel:
    """The model of one problem; variables by stage and task or value.

    Bytes and times are told in units that keep its numbers below about `_SCALE`: solvers' tolerances are absolute.
    """

    problem: Problem
    budget: int
    paging: bool = False
    model: LinearModel = field(default_factory=LinearModel)
    runs: dict[Key, int] = field(default_factory=dict)
    there: dict[Key, int] = field(default_factory=dict)
    fetched: dict[Key, int] = field(default_factory=dict)
    sent: dict[Key, int] = field(default_factory=dict)
    on_host: dict[Key, int] = field(default_factory=dict)

    def build(self) -> "StageModel":
        """Fill in variables and rows."""
        self._computed = {v for v, info in enumerate(self.problem.values) if info.origin is Origin.COMPUTED}
        everything = last_needs(self.problem, self._computed, 0, len(self.problem.tasks))[1]
        end = len(self.problem.tasks)
        self._byte = min(1.0, _SCALE / max(self.budget, 1))
        self._ns = min(1.0, _SCALE / max(self.problem.base_duration_ns, 1))
        self._needed = {v: end if self.problem.values[v].needed_after_step else everything[v] for v in self._computed}
        self._add_variables()
        self._add_flow()
        for stage in range(len(self.problem.tasks)):
            self._add_memory(stage)
        return self

    def _add_variables(self) -> None:
        problem, last = self.problem, deadlines(self.problem)
        for stage in range(len(problem.tasks)):
            for task in range(stage + 1):
                info = problem.tasks[task]
                if task == stage or (info.recomputable and stage <= last[task]):
                    first = 1.0 if task == stage else 0.0
                    self.runs[stage, task] = self.model.variable(
                        first, 1, info.duration_ns * self._ns, integer=task != stage
                    )
            for value in self._alive(stage):
                self.there[stage, value] = self.model.variable(0, 1, integer=True)
                if self.paging and problem.values[value].swappable:
                    info_v = problem.values[value]
                    self.fetched[stage, value] = self.model.variable(
                        0, 1, COPY_PRICE * self._ns * info_v.copy_in_ns, integer=True
                    )
                    self.sent[stage, value] = self.model.variable(
                        0, 1, COPY_PRICE * self._ns * info_v.copy_out_ns, integer=True
                    )
                    self.on_host[stage, value] = self.model.variable(0, 1)

    def _alive(self, stage: int) -> list[int]:
        """Values made before the stage that something from it on may need."""
        producer = self.problem.producer
        return [v for v in sorted(self._computed) if (producer[v] or 0) < stage <= self._needed[v]]

    def _add_flow(self) -> None:
        """What is there comes from somewhere; what a task reads is there."""
        row, producer = self.model.row, self.problem.producer
        for (stage, value), there in self.there.items():
            row([(there, -1), *self._sources(stage - 1, value)], lower=0)
            if (stage, value) in self.on_host:
                before = stage - 1, value
                terms = [(k[before], 1.0) for k in (self.on_host, self.sent) if before in k]
                row([(self.on_host[stage, value], -1), *terms], lower=0)
                row([(self.fetched[stage, value], -1), (self.on_host[stage, value], 1)], lower=0)
                row([(self.sent[stage, value], -1), (there, 1)], lower=0)
        for (stage, task), runs in self.runs.items():
            for value in self.problem.accesses[task]:
                if value in self._computed and producer[value] != task:
                    row([(runs, -1), *self._sources(stage, value)], lower=0)

    def _sources(self, stage: int, value: int) -> list[tuple[int, float]]:
        """Variables that put a value on the device in a stage."""
        keys = ((self.there, (stage, value)), (self.fetched, (stage, value)))
        found = [(variables[key], 1.0) for variables, key in keys if key in variables]
        run = self.runs.get((stage, self.problem.producer[value] or 0))
        return found if run is None else [*found, (run, 1.0)]

    def _fixed_bytes(self, stage: int) -> int:
        """Bytes of what is not computed: inputs until their last reader, everything else throughout."""
        values = self.problem.values
        return sum(
            info.bytes
            for v, info in enumerate(values)
            if info.origin is not Origin.COMPUTED
            and (info.origin is not Origin.BATCH or max(self.problem.readers[v], default=-1) >= stage)
        )

    def _add_memory(self, stage: int) -> None:
        problem, row = self.problem, self.model.row
        size = [info.bytes * self._byte for info in problem.values]
        room = (self.budget - self._fixed_bytes(stage)) * self._byte
        if self._byte < 1:
            room -= _MARGIN * _SCALE
        present = [(var, -size[v]) for v in self._alive(stage) for var, _ in self._stored(stage, v)]
        held = self.model.variable(0, max(room, 0.0))
        row([(held, 1.0), *present], lower=0, upper=0)
        for task in range(stage + 1):
            runs = self.runs.get((stage, task))
            if runs is None:
                continue
            info = problem.tasks[task]
            row([(held, 1.0), (runs, info.working_bytes * self._byte)], upper=room)
            made = [v for v in info.writes if v in self._computed]
            freed = [(self._free(stage, task, v, runs), size[v]) for v in {*info.reads, *made} & self._computed]
            after = self.model.variable(0, max(room, 0.0)) if task < stage else None
            if after is not None:
                row([(after, 1.0), (held, -1.0), (runs, -sum(size[v] for v in made)), *freed], lower=0, upper=0)
                held = after

    def _stored(self, stage: int, value: int) -> list[tuple[int, float]]:
        keys = ((self.there, (stage, value)), (self.fetched, (stage, value)))
        return [(variables[key], 1.0) for variables, key in keys if key in variables]

    def _free(self, stage: int, task: int, value: int, runs: int) -> int:
        """F: at most 1 where the task runs, the next stage does not find the value and nothing later in this one reads
        it."""
        free = self.model.variable(0, 1)
        self.model.row([(free, 1.0), (runs, -1.0)], upper=0)
        for other in (self.there.get((stage + 1, value)), self.sent.get((stage, value))):
            if other is not None:
                self.model.row([(free, 1.0), (other, 1.0)], upper=1)
        for reader in self.problem.readers[value]:
            later = self.runs.get((stage, reader))
            if task < reader <= stage and later is not None:
                self.model.row([(free, 1.0), (later, 1.0)], upper=1)
        return free

    def sequence(self, point: Point) -> list[list[int]]:
        """The tasks of each stage, in order."""
        stages: defaultdict[int, list[int]] = defaultdict(list)
        for (stage, task), variable in self.runs.items():
            if point[variable] > 0.5:
                stages[stage].append(task)
        return [sorted(stages[stage]) for stage in range(len(self.problem.tasks))]


ITERATIONS_PER_NODE = 50
"""Iterations of the simplex method that a node of the search for integers counts."""


def searched(model: LinearModel, options: SolveOptions) -> Answer:
    """The best point within the time limit; where work is counted, within as many nodes of a search that begins at a
    relaxation solved in time."""
    if not options.clock.counted:
        return model.solve(options.time_limit_s)
    ends = options.clock.now() + options.time_limit_s
    relaxed = model.solve(Effort(options.time_limit_s, clock=options.clock), relaxed=True, staged=True)
    if relaxed.point is None:
        return relaxed
    left = Effort(ends - options.clock.now(), clock=options.clock)
    return model.solve(replace(left, nodes=max(1, left.iterations(model.entry_count) // ITERATIONS_PER_NODE)))


def size_of(problem: Problem) -> int:
    """About how many rows the model has."""
    recomputable = [t for t, info in enumerate(problem.tasks) if info.recomputable]
    last = deadlines(problem)
    rows = 0
    for task in range(len(problem.tasks)):
        stages = min(last[task], len(problem.tasks) - 1) - task + 1 if problem.tasks[task].recomputable else 1
        info = problem.tasks[task]
        readers = sum(len(problem.readers[v]) for v in {*info.reads, *info.writes})
        rows += stages * (3 + len(problem.accesses[task]) + readers)
    return rows + len(problem.values) * len(recomputable)


def require_scale(name: str, problem: Problem, rows: Callable[[Problem], int], most: int) -> None:
    """Raise PolicyScopeError where the model of the policy `name` would have more than `most` rows."""
    count = rows(problem)
    if count > most:
        raise PolicyScopeError(
            f"{name} is exact and its model grows with the square of the tasks: {len(problem.tasks)} of them make about "
            f"{count:,} rows, where {most:,} is what it takes on here; choose mip, or rotor and dtr, which scale"
        )
