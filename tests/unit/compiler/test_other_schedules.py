"""Where no addresses are found for a solver's best schedule, the others that it knew are packed."""

from dataclasses import replace

import pytest
from support import networks
from support.costs import made_up_costs
from support.labelled import Layer, training_chain
from support.schedules import random_schedule

from planc.compiler.fit import Limits, PlanSearch
from planc.compiler.trial import Trial
from planc.errors import InfeasibleBudgetError
from planc.planning.build import PlanningProblem, build_problem
from planc.problem.problem import Problem
from planc.schedule.residency import memory_profile
from planc.schedule.schedule import Schedule
from planc.schedule.simulate import simulate
from planc.schedule.solver import Candidate, Solution, SolveOptions, load_solver, solve
from planc_solvers.baselines.starts import policy_schedules


class _Knows:
    """Answers once, with the first schedule, and hands on the rest; within less memory, or again, it finds nothing."""

    def __init__(self, schedules: list[Schedule]) -> None:
        self.schedules, self.asked = schedules, 0

    def solve(self, problem: Problem, _options: SolveOptions) -> Candidate:
        self.asked += 1
        if self.asked > 1:
            raise InfeasibleBudgetError("nothing more", 1 << 40, "any", problem.budget_bytes)
        first, *others = self.schedules
        return Candidate(first, problem.least_duration_ns, "every schedule", others=tuple(others))


class _Unpackable(PlanSearch):
    """A search whose packer never gets the first of the schedules, nor the second, into the capacity."""

    def _packed(self, solution: Solution) -> Trial:
        trial = super()._packed(solution)
        if solution.timeline.step_ns > self.known[1]:
            return trial
        return replace(trial, packing=replace(trial.packing, height=self.limits.capacity + 1))

    @property
    def known(self) -> list[int]:
        assert isinstance(self.solver, _Knows)
        return [simulate(self.planning.problem, s).step_ns for s in self.solver.schedules]


def _planning() -> tuple[PlanningProblem, list[Schedule], int]:
    """A problem, three of its schedules by time, and bytes enough for all."""
    imported = networks.cnn()
    planning = build_problem(imported.graph, made_up_costs(imported.graph))
    schedules = [random_schedule(planning.problem, seed) for seed in range(8)]
    by_time = {simulate(planning.problem, s).step_ns: s for s in schedules}
    chosen = [by_time[ns] for ns in sorted(by_time)[:3]]
    return planning, chosen, 2 * max(max(memory_profile(planning.problem, s)) for s in chosen)


def test_the_fastest_other_schedule_that_packs_is_taken() -> None:
    planning, schedules, capacity = _planning()
    search = _Unpackable(networks.cnn().graph, planning, _Knows(schedules), Limits(capacity, 0, 1.0))
    solution, lowered = search.run()
    assert solution.timeline.step_ns == search.known[2]
    assert lowered.slab_bytes <= capacity


def test_without_another_schedule_that_packs_the_budget_is_refused() -> None:
    planning, schedules, capacity = _planning()
    search = _Unpackable(networks.cnn().graph, planning, _Knows(schedules[:2]), Limits(capacity, 0, 1.0))
    with pytest.raises(InfeasibleBudgetError, match="no packing within"):
        search.run()


def test_policies_are_asked_after_their_time_until_one_has_answered() -> None:
    chain = training_chain([Layer("conv", 100, 50)] * 8)
    tight = replace(chain, budget_bytes=max(memory_profile(chain, Schedule(tuple(range(16))))) * 3 // 4)
    assert len(list(policy_schedules(tight, SolveOptions(time_limit_s=-1.0), lambda: False))) == 1


def test_policies_that_take_more_than_the_time_left_are_not_asked() -> None:
    """One that has begun holds the interpreter's lock until it is done, whatever the time limit."""
    chain = training_chain([Layer("conv", 100, 50)] * 8)
    tight = replace(chain, budget_bytes=max(memory_profile(chain, Schedule(tuple(range(16))))) * 3 // 4)
    assert not list(policy_schedules(tight, SolveOptions(10.0), lambda: False, lambda: 0.0))
    assert list(policy_schedules(tight, SolveOptions(10.0), lambda: False, lambda: 10.0))


def test_mip_hands_on_what_policies_answered() -> None:
    chain = training_chain([Layer("conv", 100, 50)] * 8)
    tight = replace(chain, budget_bytes=max(memory_profile(chain, Schedule(tuple(range(16))))) * 3 // 4)
    found = solve(load_solver("mip"), tight, SolveOptions(time_limit_s=2.0))
    times = [simulate(tight, schedule).step_ns for schedule in found.others]
    assert times == sorted(times)
    assert times
    assert all(found.timeline.step_ns <= ns for ns in times)
    assert all(max(memory_profile(tight, schedule)) <= tight.budget_bytes for schedule in found.others)
