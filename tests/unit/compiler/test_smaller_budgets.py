"""Where schedules of the whole budget do not pack, those of somewhat less do: a plan uses the budget that it has."""

from dataclasses import replace

import pytest
from support import networks
from support.costs import made_up_costs
from support.schedules import random_schedule

from planc.clock import WorkClock
from planc.compiler.fit import Limits, PlanSearch
from planc.compiler.sessions import Found, least_plan, search_plan
from planc.compiler.trial import Trial
from planc.errors import SolverTimeoutError
from planc.importer.import_model import ImportedModel
from planc.lowering.lower import Lowering
from planc.packing.buffers import Packing
from planc.planning.build import PlanningProblem, build_problem
from planc.problem.problem import Problem
from planc.schedule.residency import memory_profile
from planc.schedule.schedule import Schedule
from planc.schedule.simulate import simulate
from planc.schedule.solver import Candidate, Solution, SolveOptions, load_solver
from planc_solvers.mip import Mip

GAPS = 8
"""A packing of this packer is an eighth higher than its load."""


@pytest.fixture
def gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packings with gaps, however long they are searched for."""

    def pack(lowering: Lowering, *_: object, **__: object) -> Packing:
        packing = original(lowering, None, 0.0)
        load = packing.lower_bound
        return replace(packing, height=max(packing.height, load + load // GAPS))

    original = Lowering.pack
    monkeypatch.setattr(Lowering, "pack", pack)


def _problem() -> tuple[ImportedModel, PlanningProblem, int]:
    """A step, its problem and the bytes that it takes to keep everything."""
    imported = networks.cnn()
    planning = build_problem(imported.graph, made_up_costs(imported.graph))
    problem = planning.problem
    return imported, planning, max(memory_profile(problem, Schedule(tuple(range(len(problem.tasks))))))


def _step_ns(found: Found) -> int:
    return found.solution.timeline.step_ns


@pytest.mark.usefixtures("gaps")
def test_without_time_for_repairs_the_plan_still_uses_the_budget() -> None:
    imported, planning, capacity = _problem()
    least = least_plan(imported, planning, load_solver("mip"), 0)
    assert least is not None
    found = search_plan(imported, planning, load_solver("mip"), Limits(capacity, 0, 0.0, clock=WorkClock()), 0)
    assert found.need <= capacity
    assert found.need > capacity - capacity // GAPS
    assert _step_ns(found) < _step_ns(least)


class _NeedsAStart(Mip):
    """Finds something for whoever wants no bound or has a start, and else nothing."""

    def solve(self, problem: Problem, options: SolveOptions) -> Candidate:
        if options.prove and options.start is None:
            raise SolverTimeoutError("no plan")
        return super().solve(problem, options)


def test_where_the_search_finds_nothing_it_goes_on_from_the_least_plan() -> None:
    imported, planning, capacity = _problem()
    least = least_plan(imported, planning, _NeedsAStart(), 0)
    assert least is not None
    found = search_plan(imported, planning, _NeedsAStart(), Limits(capacity, 0, 1.0, clock=WorkClock()), 0)
    assert found.need <= capacity
    assert _step_ns(found) < _step_ns(least)


class _Slower:
    """Answers with the fastest of three schedules first, handing on the second, and ever after with the slowest."""

    def __init__(self, schedules: list[Schedule]) -> None:
        self.schedules, self.asked = schedules, 0

    def solve(self, problem: Problem, _options: SolveOptions) -> Candidate:
        self.asked += 1
        fast, other, slow = self.schedules
        if self.asked == 1:
            return Candidate(fast, problem.least_duration_ns, "every schedule", others=(other,))
        return Candidate(slow, problem.least_duration_ns, "every schedule")


class _OnlyTheFirstMisses(PlanSearch):
    def _packed(self, solution: Solution) -> Trial:
        trial = super()._packed(solution)
        assert isinstance(self.solver, _Slower)
        if solution.schedule == self.solver.schedules[0]:
            return replace(trial, packing=replace(trial.packing, height=self.limits.capacity + 1))
        return trial


def test_a_repair_is_no_slower_than_another_schedule_that_packs() -> None:
    imported, planning, _ = _problem()
    by_time = {
        simulate(planning.problem, s).step_ns: s for s in (random_schedule(planning.problem, i) for i in range(8))
    }
    schedules = [by_time[ns] for ns in sorted(by_time)[:3]]
    capacity = 2 * max(max(memory_profile(planning.problem, schedule)) for schedule in schedules)
    search = _OnlyTheFirstMisses(imported.graph, planning, _Slower(schedules), Limits(capacity, 0, 2.0))
    solution, _ = search.run()
    assert solution.timeline.step_ns == simulate(planning.problem, schedules[1]).step_ns


class _Faster:
    """Answers with ever faster schedules, each in all of its time; tells of what it was asked."""

    def __init__(self, schedules: list[Schedule]) -> None:
        self.schedules, self.asked = schedules, list[tuple[int, int]]()

    def solve(self, problem: Problem, options: SolveOptions) -> Candidate:
        self.asked.append((problem.budget_bytes, options.seed))
        options.clock.spend(options.time_limit_s)
        schedule = self.schedules[min(len(self.asked), len(self.schedules)) - 1]
        return Candidate(schedule, problem.least_duration_ns, "every schedule")


class _PacksWithinLess(PlanSearch):
    def _packed(self, solution: Solution) -> Trial:
        trial = super()._packed(solution)
        assert isinstance(self.solver, _Faster)
        if self.solver.asked[-1][0] >= self.limits.capacity:
            return replace(trial, packing=replace(trial.packing, height=self.limits.capacity + 1))
        return trial


def test_a_schedule_that_packs_is_gone_on_from_within_its_budget_by_other_draws() -> None:
    imported, planning, _ = _problem()
    by_time = {
        simulate(planning.problem, s).step_ns: s for s in (random_schedule(planning.problem, i) for i in range(12))
    }
    schedules = [by_time[ns] for ns in sorted(by_time, reverse=True)]
    capacity = 2 * max(max(memory_profile(planning.problem, schedule)) for schedule in schedules)
    solver = _Faster(schedules)
    search = _PacksWithinLess(imported.graph, planning, solver, Limits(capacity, 0, 20.0, clock=WorkClock()))
    solution, _ = search.run()
    budgets, seeds = [budget for budget, _ in solver.asked], [seed for _, seed in solver.asked]
    assert solution.timeline.step_ns == min(
        simulate(planning.problem, schedule).step_ns for schedule in schedules[: len(solver.asked)]
    )
    assert budgets[0] == capacity
    assert len(budgets) > 4
    assert all(budget < capacity for budget in budgets[1:])
    assert len(set(seeds)) == len(seeds)
    again = _PacksWithinLess(
        imported.graph, planning, _Faster(schedules), search.limits, solution.schedule, search.given_up
    )
    again.run()
    assert search.given_up > 0
    assert isinstance(again.solver, _Faster)
    assert again.solver.asked[0][0] == capacity - search.given_up
