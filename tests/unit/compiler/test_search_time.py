"""A search ends within a tenth of its limit and a second more, with a plan: as told by a clock that the test moves."""

from dataclasses import replace

import pytest
from support import networks
from support.costs import made_up_costs
from support.random_steps import random_step
from support.schedules import random_schedule

import planc.compiler.job as whole_way
from planc.clock import StoppableClock, WorkClock
from planc.compiler.fit import Limits, PlanSearch
from planc.compiler.job import CompileJob
from planc.compiler.least import least_trial
from planc.compiler.options import CompileOptions
from planc.compiler.search_time import SearchTime
from planc.compiler.sessions import Found, least_plan, search_plan
from planc.compiler.trial import Trial, leanest, leanest_first, lowerings, variants
from planc.enums import Status
from planc.errors import InfeasibleBudgetError, SolverTimeoutError
from planc.planning.build import PlanningProblem, build_problem
from planc.problem.problem import Problem
from planc.schedule.residency import memory_profile
from planc.schedule.schedule import Schedule
from planc.schedule.simulate import simulate
from planc.schedule.solver import Candidate, Solution, SolveOptions, checked, load_solver

LEAST_S = 0.3
"""What the least plan takes here."""


class _Hand(StoppableClock):
    """Shows what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.shown = 100.0

    def now(self) -> float:
        return self.shown


class _Slow:
    """Answers with the schedule that keeps everything, where that fits, in all of its time."""

    def __init__(self, clock: _Hand) -> None:
        self.clock, self.budgets = clock, list[int]()

    def solve(self, problem: Problem, options: SolveOptions) -> Candidate:
        self.budgets.append(problem.budget_bytes)
        self.clock.shown += options.time_limit_s
        if max(memory_profile(problem, _keep(problem))) > problem.budget_bytes:
            raise SolverTimeoutError("no plan within the time limit")
        return Candidate(_keep(problem), problem.least_duration_ns, "every schedule")


class _NeverPacks(PlanSearch):
    """A packer that takes a while and misses."""

    def _packed(self, solution: Solution) -> Trial:
        trial = super()._packed(solution)
        assert isinstance(self.limits.clock, _Hand)
        self.limits.clock.shown += 0.05
        self._time.tried(0.05)
        return replace(trial, packing=replace(trial.packing, height=self.limits.capacity + 1))


def _keep(problem: Problem) -> Schedule:
    return Schedule(tuple(range(len(problem.tasks))))


def _planning() -> tuple[PlanningProblem, int]:
    graph = networks.cnn().graph
    planning = build_problem(graph, made_up_costs(graph))
    return planning, 4 * max(memory_profile(planning.problem, _keep(planning.problem)))


@pytest.mark.parametrize("limit_s", [0.5, 1.0, 2.0, 5.0, 12.0, 30.0])
def test_where_nothing_packs_the_least_plan_is_there_in_time(limit_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    planning, capacity = _planning()
    imported, clock = networks.cnn(), _Hand()
    known = least_plan(imported, planning, load_solver("mip"), 0)
    assert known is not None
    monkeypatch.setattr("planc.compiler.sessions.PlanSearch", _NeverPacks)

    def least() -> Found:
        clock.shown += LEAST_S
        return known

    began, solver = clock.shown, _Slow(clock)
    limits = Limits(capacity, 0, limit_s, clock=clock)
    assert search_plan(imported, planning, solver, limits, 0, least) is known
    assert clock.shown - began <= 1.1 * limit_s + 1
    assert min(solver.budgets) < capacity // 2  # with the last of its time it tries what is sure to be lean


def test_what_makes_the_least_plan_is_left_over_unless_it_is_made() -> None:
    clock = _Hand()
    rescued, open_still = SearchTime(clock, 1.0, 0.5, True), SearchTime(clock, 1.0, 0.5, False)
    for time in (rescued, open_still):
        time.tried(0.2)
    assert 1.0 < rescued.room() < 1.5
    assert open_still.room() < rescued.room() - 3 * 0.2
    open_still.packs()
    assert open_still.room() == rescued.room()


def test_until_a_schedule_is_packed_the_graph_tells_how_long_that_takes() -> None:
    clock = _Hand()
    known, large = (SearchTime(clock, 1.0, 0.5, True, ops) for ops in (0, 10_000))
    assert known.tries() > large.tries() == 1
    large.tried(0.01)
    assert large.tries() > 1
    assert SearchTime(WorkClock(), 1.0, 0.5, True, 10_000).tries() == SearchTime(WorkClock(), 1.0, 0.5, True).tries()


@pytest.mark.parametrize("seconds", [0.05, 30.0])
def test_with_time_for_one_schedule_the_first_is_lean_enough_to_pack(seconds: float) -> None:
    imported = networks.cnn()
    planning, clock = build_problem(imported.graph, made_up_costs(imported.graph)), _Hand()
    capacity, solver = 4 * planning.liveness_peak_bytes, _Slow(clock)
    found, _ = PlanSearch(imported.graph, planning, solver, Limits(capacity, 0, seconds, clock=clock, late_s=0.0)).run()
    assert solver.budgets[0] == (capacity if seconds > 1 else int(0.9 * capacity))
    assert found.lower_bound_ns <= found.timeline.step_ns


class _Needy(_Slow):
    """Has a schedule within the whole capacity alone."""

    def __init__(self, clock: _Hand, capacity: int) -> None:
        super().__init__(clock)
        self.capacity = capacity

    def solve(self, problem: Problem, options: SolveOptions) -> Candidate:
        if problem.budget_bytes < self.capacity:
            raise InfeasibleBudgetError("too small for this policy", self.capacity, "conv1")
        return super().solve(problem, options)


def test_what_a_leaner_budget_does_not_give_is_looked_for_within_the_whole() -> None:
    imported = networks.cnn()
    planning, clock = build_problem(imported.graph, made_up_costs(imported.graph)), _Hand()
    capacity = 4 * planning.liveness_peak_bytes
    limits = Limits(capacity, 0, 0.05, clock=clock, late_s=0.0)
    search = PlanSearch(imported.graph, planning, _Needy(clock, capacity), limits)
    assert search.run()[1].slab_bytes <= capacity


def test_a_solve_without_time_for_a_relaxation_proves_nothing() -> None:
    assert not SearchTime(_Hand(), 1.0, 0.5, True).for_proof(0.35, 1_217)
    assert SearchTime(_Hand(), 1.0, 0.5, True).for_proof(0.35, 60)
    assert SearchTime(_Hand(), 60.0, 0.5, True).for_proof(21.0, 30_000)
    assert SearchTime(WorkClock(), 1.0, 0.5, True).for_proof(0.35, 1_217)


def test_min_without_time_left_is_the_least_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = networks.cnn()
    job = CompileJob.of(imported, made_up_costs(imported.graph))
    least = job.budget_bytes("min")

    def no_search(*_: object) -> Found:
        raise AssertionError("there is no time to search")

    again = CompileJob.of(imported, made_up_costs(imported.graph))
    monkeypatch.setattr(whole_way, "search_plan", no_search)
    memory = again.compile(CompileOptions("min", time_limit_s=0.0)).plan.memory
    assert memory.budget_bytes == least
    assert memory.slab_bytes + memory.scratch_bytes <= least


def test_nobody_waits_for_the_least_plan_beside_another_search() -> None:
    imported = networks.cnn()
    planning, _ = _planning()

    def not_asked() -> Found:
        raise AssertionError("nobody asked")

    with pytest.raises(InfeasibleBudgetError):
        search_plan(imported, planning, load_solver("mip"), Limits(1, 0, 1.0, late_s=0.0), 0, not_asked)


@pytest.mark.parametrize("seed", range(6))
def test_the_least_plan_is_the_lowest_of_all_variants(seed: int) -> None:
    imported = random_step(seed)
    planning = build_problem(imported.graph, made_up_costs(imported.graph))
    found = least_trial(imported.graph, planning, load_solver("mip"))
    assert found is not None
    schedule = random_schedule(planning.problem, seed)
    roomy = replace(planning.problem, budget_bytes=max(memory_profile(planning.problem, schedule)))
    solution = checked(roomy, Candidate(schedule, 0, "every schedule"), SolveOptions())
    every = [
        lowering.pack(None, 0.0).height
        for variant in variants(planning.problem, solution)
        for lowering in lowerings(imported.graph, planning, variant)
    ]
    assert found.packing.height <= min(every)


@pytest.mark.parametrize("seed", range(12))
def test_the_leanest_variant_alone_is_the_last_of_them(seed: int) -> None:
    graph = networks.cnn().graph
    problem = build_problem(graph, made_up_costs(graph, bandwidth=10**11)).problem
    schedule = random_schedule(problem, seed)
    peak = max(memory_profile(problem, schedule))
    solution = Solution(schedule, simulate(problem, schedule), peak, 0, "every schedule", 0.0, Status.FEASIBLE)
    every = list(variants(problem, solution))
    assert leanest(problem, solution) == every[-1]
    assert sorted(v.timeline.step_ns for v in leanest_first(problem, solution)) == sorted(
        v.timeline.step_ns for v in every
    )
