"""Sessions that take device memory are part of the budget."""

from types import SimpleNamespace
from typing import cast

import msgspec
import pytest
from cuda_emulator.emulator import Emulator
from support import networks
from support.costs import made_up_costs
from support.emulated import card, open_step
from support.schedules import random_schedule

from planc.clock import WorkClock
from planc.compiler.budget import arena_bytes_of, planning_problem
from planc.compiler.fit import Limits
from planc.compiler.job import compile_model
from planc.compiler.options import Compilation, CompileOptions
from planc.compiler.sessions import Found, _Search, search_plan
from planc.costs.table import CostTable
from planc.errors import InfeasibleBudgetError, PlancError
from planc.importer.import_model import ImportedModel
from planc.lowering.lower import Lowered
from planc.plan.plan import Plan
from planc.problem.bounds import minimum_budget
from planc.problem.problem import Problem
from planc.schedule.schedule import Schedule
from planc.schedule.solver import Candidate, Solution, SolveOptions
from planc.verifier.verify import verify
from planc_solvers.baselines.selection import first_fitting

__all__ = ["card"]


def _costs(imported: ImportedModel, session_bytes: int) -> CostTable:
    made_up = made_up_costs(imported.graph, scratch=1 << 10)
    device = msgspec.structs.replace(made_up.device, kind="cuda", session_bytes=session_bytes)
    return msgspec.structs.replace(made_up, device=device)


def _compile(imported: ImportedModel, budget: int, session_bytes: int) -> Compilation:
    options = CompileOptions(str(budget), "mip", time_limit_s=2.0)
    return compile_model(imported, _costs(imported, session_bytes), options)


def _tight(imported: ImportedModel, share: int = 3) -> int:
    """A budget that needs copies or recomputation: so many tenths of the way from the least one to the peak."""
    costs = _costs(imported, 0)
    planning = planning_problem(imported.graph, costs)
    least = minimum_budget(planning.problem)[0] + arena_bytes_of(planning) + costs.device.session_bytes
    return least + (planning.liveness_peak_bytes - least) * share // 10


def _total(plan: Plan) -> int:
    return plan.memory.slab_bytes + plan.memory.scratch_bytes + plan.memory.session_bytes


def test_the_sessions_counted_are_those_that_load(card: Emulator) -> None:
    imported = networks.cnn()
    plan = _compile(imported, _tight(imported), 1).plan
    assert plan.memory.session_bytes > 1
    with open_step(card, imported, plan) as step:
        assert step.device.session_count == plan.memory.session_bytes


@pytest.mark.parametrize("session_bytes", [100, 1000])
def test_slab_scratch_and_sessions_stay_within_the_budget(session_bytes: int) -> None:
    imported = networks.cnn()
    budget = _tight(imported, share=8)
    assert _compile(imported, budget, 0).plan.memory.session_bytes == 0
    plan = _compile(imported, budget + session_bytes, session_bytes).plan
    assert verify(imported.graph, plan) == ()
    assert _total(plan) <= plan.memory.budget_bytes
    assert plan.memory.session_bytes % session_bytes == 0
    assert plan.memory.session_bytes >= session_bytes


class _SwapsWhereItMay:
    """Copies something where values may swap, and keeps all where none may."""

    def solve(self, problem: Problem, _options: SolveOptions) -> Candidate:
        swaps = any(value.swappable for value in problem.values)
        schedule = random_schedule(problem, 0) if swaps else Schedule(tuple(range(len(problem.tasks))))
        return first_fitting("test", problem, [schedule])


class _Patient(_SwapsWhereItMay):
    """Remembers its time limit and its patience."""

    def solve(self, problem: Problem, options: SolveOptions) -> Candidate:
        self.limit_s, self.patience_s = options.time_limit_s, options.patience_s
        return super().solve(problem, options)


def test_a_first_solve_without_a_plan_may_take_all_of_the_time() -> None:
    imported = networks.cnn()
    planning, solver = planning_problem(imported.graph, _costs(imported, 0)), _Patient()
    search_plan(imported, planning, solver, Limits(3 * planning.liveness_peak_bytes, 0, 8.0), 0)
    assert solver.limit_s < 4.0 < solver.patience_s <= 8.0


def test_where_sessions_are_dear_nothing_is_copied() -> None:
    imported = networks.cnn()
    planning = planning_problem(imported.graph, _costs(imported, 0))
    peak = planning.liveness_peak_bytes
    dear = 4 * peak
    limits = Limits(capacity=3 * peak + dear, beside=0, time_limit_s=4.0)
    free = search_plan(imported, planning, _SwapsWhereItMay(), limits, 0)
    assert free.lowered.copies
    found = search_plan(imported, planning, _SwapsWhereItMay(), limits, dear)
    assert found.lowered.copies == ()
    assert found.session_bytes == dear


def test_a_second_plan_with_more_sessions_than_the_first_leaves_room_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = networks.cnn()
    planning = planning_problem(imported.graph, _costs(imported, 0))
    limits, kept = Limits(capacity=10_000, beside=0, time_limit_s=4.0), list[int]()
    sessions = iter((160, 165, 170))

    def all_memory(
        search: _Search, _planning: object, reserve: int, _seconds: float, _late_s: float, _before: object
    ) -> Found:
        kept.append(reserve)
        slab = SimpleNamespace(slab_bytes=search.limits.capacity - reserve)
        solution = SimpleNamespace(timeline=SimpleNamespace(step_ns=1))
        return Found(cast(Solution, solution), cast(Lowered, slab), next(sessions), 0)

    monkeypatch.setattr(_Search, "once", all_memory)
    assert search_plan(imported, planning, _SwapsWhereItMay(), limits, 1).session_bytes == 170
    assert kept == [100, 160, 206]


def test_a_plan_that_fits_is_gone_on_from_while_its_search_is_unfinished(monkeypatch: pytest.MonkeyPatch) -> None:
    imported, clock = networks.cnn(), WorkClock()
    planning = planning_problem(imported.graph, _costs(imported, 0))
    limits, tried = Limits(capacity=10_000, beside=0, time_limit_s=10.0, clock=clock), list[tuple[int, float]]()
    times = iter((5, 3, 4))

    def fits(
        _search: _Search, _planning: object, reserve: int, seconds: float, _late_s: float, before: Found | None
    ) -> Found:
        clock.spend(0.9 * seconds)
        tried.append((reserve, seconds))
        assert (before is None) == (len(tried) == 1)
        solution = SimpleNamespace(timeline=SimpleNamespace(step_ns=next(times)))
        return Found(cast(Solution, solution), cast(Lowered, SimpleNamespace(slab_bytes=9000)), 90, 0, 0, True)

    monkeypatch.setattr(_Search, "once", fits)
    found = search_plan(imported, planning, _SwapsWhereItMay(), limits, 1)
    assert found.solution.timeline.step_ns == 3
    assert [reserve for reserve, _ in tried] == [100, 100, 100]
    assert tried[0][1] == 7.0
    assert clock.now() <= 10.0


def test_a_budget_said_to_be_enough_is_enough() -> None:
    imported = networks.cnn()
    with pytest.raises(InfeasibleBudgetError) as refused:
        _compile(imported, _tight(imported), 50_000)
    enough = refused.value.minimum_budget_bytes
    assert _tight(imported) < _total(_compile(imported, enough, 50_000).plan) <= enough


def test_the_verifier_counts_sessions() -> None:
    imported = networks.cnn()
    plan = _compile(imported, _tight(imported), 0).plan
    for session_bytes, subject in ((plan.memory.budget_bytes, "over budget"), (-1, "size")):
        memory = msgspec.structs.replace(plan.memory, session_bytes=session_bytes)
        found = verify(imported.graph, msgspec.structs.replace(plan, memory=memory))
        assert subject in {violation.kind for violation in found}


def test_refusals_are_planc_errors() -> None:
    with pytest.raises(PlancError):
        _compile(networks.mlp(), 100, 10)
