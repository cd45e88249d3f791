"""moccasin: retention intervals by constraint programming (Bartan et al., 2023).

Bartan, Li, Teague, Lott and Dilkina, MOCCASIN: Efficient Tensor Rematerialization for Neural Networks, ICML 2023. Every
task may run C times; each run keeps its results for a retention interval. The k-th stage offers one event to each of
the first k tasks, so that a run of task p starts at one of the events {j (j + 1) / 2 + p : j ≥ p}. Results of running
intervals share the budget (a cumulative constraint); every run lies within retention intervals of its inputs. Two
phases: the first brings the peak below the budget, the second, from there, minimises the time of the repeated runs.
Each of a task's results has an end of its own, which the paper, with one result a task, does not need.
"""

from dataclasses import dataclass, field

from ortools.sat.python import cp_model

from planc.clock import limit_cp_sat
from planc.errors import PolicyScopeError, SolverTimeoutError
from planc.problem.problem import Origin, Problem
from planc.schedule.residency import memory_profile
from planc.schedule.schedule import Schedule
from planc.schedule.solver import Candidate, SolveOptions
from planc_solvers.baselines.selection import first_fitting, kept, too_small
from planc_solvers.baselines.stages import needed_steps
from planc_solvers.baselines.training_step import deadlines

COPIES = 2
"""Runs of a task (C): the paper's choice, which it finds enough."""

MOST_TASKS = 1_500

_FIRST_PHASE = 0.5
"""Part of the time limit for reaching the budget at all."""


class Moccasin:
    """Recompute only, by CP-SAT."""

    def solve(self, problem: Problem, options: SolveOptions) -> Candidate:
        """Raises InfeasibleBudgetError when two runs a task are proved too few, SolverTimeoutError when nothing was
        found in time, PolicyScopeError for a problem that is too large."""
        keep = kept("moccasin", problem)
        if keep is not None:
            return keep
        if len(problem.tasks) > MOST_TASKS:
            raise PolicyScopeError(
                f"moccasin is exact: {len(problem.tasks)} tasks are more than the {MOST_TASKS} that it takes on here; "
                "choose mip, or rotor and dtr, which scale"
            )
        model = _Model(problem).build()
        return first_fitting("moccasin", problem, [model.solve(options)])


@dataclass
class _Run:
    """One run of a task: whether it takes place, its event, and the last event of each result's retention."""

    task: int
    present: cp_model.IntVar
    start: cp_model.IntVar
    ends: dict[int, cp_model.IntVar]


@dataclass
class _Model:
    problem: Problem
    model: cp_model.CpModel = field(default_factory=cp_model.CpModel)
    runs: list[list[_Run]] = field(default_factory=list)

    def build(self) -> "_Model":
        """Variables, memory and precedence."""
        self.horizon = _event(len(self.problem.tasks), 0)
        last = deadlines(self.problem)
        for task, info in enumerate(self.problem.tasks):
            count = COPIES if info.recomputable else 1
            self.runs.append([self._run(task, copy, last[task]) for copy in range(count)])
            for first, second in zip(self.runs[task], self.runs[task][1:], strict=False):
                self.model.Add(second.start > first.start).OnlyEnforceIf(second.present)
                self.model.AddImplication(second.present, first.present)
        self._limit_memory()
        for runs in self.runs:
            for run in runs:
                for value in self.problem.accesses[run.task]:
                    if self.problem.producer[value] is not None:
                        self._within(run, value)
        return self

    def _run(self, task: int, copy: int, deadline: int) -> _Run:
        model, info = self.model, self.problem.tasks[task]
        made = [v for v in info.writes if self.problem.values[v].origin is Origin.COMPUTED]
        if copy == 0:
            events = [_event(task, task)]
        else:
            events = [_event(stage, task) for stage in range(task + 1, min(deadline + 1, len(self.problem.tasks)))]
        present = model.NewConstant(1) if copy == 0 else model.NewBoolVar("")
        if not events:
            model.Add(present == 0)
            events = [_event(task, task)]
        start = model.NewIntVarFromDomain(cp_model.Domain.FromValues(events), "")
        ends = {v: model.NewIntVar(min(events), self.horizon, "") for v in made}
        for value, end in ends.items():
            model.Add(end >= (self.horizon if self.problem.values[value].needed_after_step else start))
        return _Run(task, present, start, ends)

    def _limit_memory(self) -> None:
        """The capacity is a variable, which the first phase lowers to the budget."""
        model, problem = self.model, self.problem
        intervals, demands = [], []
        for runs in self.runs:
            for run in runs:
                working = problem.tasks[run.task].working_bytes
                intervals.append(model.NewOptionalFixedSizeIntervalVar(run.start, 1, run.present, ""))
                demands.append(working)
                for value, end in run.ends.items():
                    size = model.NewIntVar(0, self.horizon, "")
                    begin = model.NewIntVar(0, self.horizon + 1, "")
                    model.Add(begin == run.start + 1)
                    intervals.append(model.NewOptionalIntervalVar(begin, size, end + 1, run.present, ""))
                    demands.append(problem.values[value].bytes)
        for value, info in enumerate(problem.values):
            if info.origin is not Origin.COMPUTED:
                last = max(problem.readers[value], default=0)
                end = _event(last, last) + 1 if info.origin is Origin.BATCH else self.horizon + 1
                intervals.append(model.NewFixedSizeIntervalVar(0, end, ""))
                demands.append(info.bytes)
        keep = max(memory_profile(problem, Schedule(tuple(range(len(problem.tasks))))))
        self.capacity = model.NewIntVar(0, keep, "")
        model.AddCumulative(intervals, demands, self.capacity)

    def _within(self, run: _Run, value: int) -> None:
        """The run lies within one retention of the value."""
        chosen = []
        for source in self.runs[self.problem.producer[value] or 0]:
            inside = self.model.NewBoolVar("")
            self.model.AddImplication(inside, source.present)
            self.model.Add(source.start < run.start).OnlyEnforceIf(inside)
            self.model.Add(source.ends[value] >= run.start).OnlyEnforceIf(inside)
            chosen.append(inside)
        self.model.AddBoolOr(chosen).OnlyEnforceIf(run.present)

    def solve(self, options: SolveOptions) -> Schedule:
        """Both phases. Raises InfeasibleBudgetError and SolverTimeoutError."""
        budget, model = self.problem.budget_bytes, self.model
        self._hint_order()
        over = model.NewIntVar(0, max(0, budget) + (1 << 60), "")
        model.Add(over >= self.capacity - budget)
        model.Minimize(over)
        first = _solver(options, options.time_limit_s * _FIRST_PHASE)
        status = first.Solve(model)
        options.clock.spend(_spent(first, options))
        if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE) or first.Value(over) > 0:
            if status in (cp_model.OPTIMAL, cp_model.INFEASIBLE):
                raise too_small("moccasin", self.problem, None)
            raise SolverTimeoutError("moccasin found no schedule within the time limit; allow more time or choose mip")
        self._hint(first)
        model.Add(over == 0)
        repeats = [run for runs in self.runs for run in runs[1:]]
        model.Minimize(sum(self.problem.tasks[run.task].duration_ns * run.present for run in repeats))
        second = _solver(options, options.time_limit_s - _spent(first, options))
        found = second.Solve(model)
        options.clock.spend(_spent(second, options))
        return self._schedule(second if found in (cp_model.OPTIMAL, cp_model.FEASIBLE) else first)

    def _hint_order(self) -> None:
        """The given order without repeats, which holds except for the budget."""
        for task, runs in enumerate(self.runs):
            for run in runs[1:]:
                self.model.AddHint(run.present, 0)
            for value, end in runs[0].ends.items():
                last = max(self.problem.readers[value], default=task)
                self.model.AddHint(
                    end, self.horizon if self.problem.values[value].needed_after_step else _event(last, last)
                )

    def _hint(self, solver: cp_model.CpSolver) -> None:
        self.model.ClearHints()
        for runs in self.runs:
            for run in runs:
                for variable in (run.present, run.start, *run.ends.values()):
                    self.model.AddHint(variable, solver.Value(variable))

    def _schedule(self, solver: cp_model.CpSolver) -> Schedule:
        events = [(solver.Value(r.start), r.task) for runs in self.runs for r in runs if solver.Value(r.present)]
        return Schedule(tuple(needed_steps(self.problem, [task for _, task in sorted(events)])))


def _solver(options: SolveOptions, seconds: float) -> cp_model.CpSolver:
    solver = cp_model.CpSolver()
    limit_cp_sat(solver.parameters, max(seconds, 0.01), options.clock.counted, options.workers)
    solver.parameters.random_seed = options.seed
    return solver


def _spent(solver: cp_model.CpSolver, options: SolveOptions) -> float:
    """Seconds that a solve took, as its limit counts them."""
    return float(solver.ResponseProto().deterministic_time if options.clock.counted else solver.WallTime())


def _event(stage: int, task: int) -> int:
    """The event that a stage offers to a task."""
    return stage * (stage + 1) // 2 + task
