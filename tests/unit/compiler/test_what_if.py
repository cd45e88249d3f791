"""Budgets a tenth smaller and larger than the plan's, tried in what is left of the time limit."""

from dataclasses import replace

import pytest
from support.costs import made_up_costs
from support.networks import mlp

from planc.compiler.assemble import Result
from planc.compiler.job import CompileJob
from planc.compiler.options import CompileOptions
from planc.compiler.within import compile_within
from planc.errors import SolverTimeoutError
from planc.plan.curve import never_rising
from planc.plan.plan import CurvePoint, Plan
from planc.report.what_if import changes


@pytest.fixture(scope="module")
def job() -> CompileJob:
    return CompileJob.of(mlp(), made_up_costs(mlp().graph, scratch=1 << 10))


def planned(job: CompileJob, share: float, **more: object) -> Plan:
    options = CompileOptions(f"{int(share * job.roomy_bytes)}B", "mip", time_limit_s=5.0, what_if=True)
    return compile_within(job, replace(options, **more)).plan


def test_each_point_is_reached_by_a_plan_of_that_budget(job: CompileJob) -> None:
    plan = planned(job, 0.75)
    budget = plan.memory.budget_bytes
    assert [point.budget_bytes for point in plan.curve] == [budget * 9 // 10, budget, budget * 11 // 10]
    steps = [point.step_ns for point in plan.curve]
    assert steps == sorted(steps, reverse=True)
    assert steps[1] == plan.prediction.step_ns
    for point in plan.curve:  # what the curve promises, a plan that is assembled and verified has
        made = job.compile(CompileOptions(f"{point.budget_bytes}B", "mip", time_limit_s=0.5)).plan
        assert made.prediction.step_ns <= point.step_ns
        assert made.memory.slab_bytes + made.memory.scratch_bytes <= point.budget_bytes


def test_below_what_a_layer_needs_there_is_no_plan_and_above_the_peak_nothing_to_gain(job: CompileJob) -> None:
    less, _ = changes(planned(job, job.least_bytes * 1.05 / job.roomy_bytes))
    assert less.step_ns is None
    assert less.text.startswith("no plan: ")
    assert " alone needs " in less.text
    _, more = changes(planned(job, 1.0))
    assert (more.step_ns, more.text) == (job.usual.problem.base_duration_ns, "the same step")


def test_too_little_time_leaves_the_two_untried(job: CompileJob) -> None:
    plan = planned(job, 0.75, time_limit_s=0.1)
    assert [point.budget_bytes for point in plan.curve] == [plan.memory.budget_bytes]
    assert {change.step_ns for change in changes(plan)} == {None}
    assert compile_within(job, CompileOptions("max", "keep-all")).plan.curve == ()


def test_counted_work_gives_the_same_curve(job: CompileJob) -> None:
    first, second = (planned(job, 0.75, deterministic=True) for _ in range(2))
    assert len(first.curve) == 3
    assert first == second


def test_the_curve_of_auto_is_kept(job: CompileJob) -> None:
    plan = planned(job, 1.0, budget="auto", solver="keep-all")
    assert plan.memory.budget_bytes in [point.budget_bytes for point in plan.curve]


def test_a_curve_never_rises_and_has_each_budget_once() -> None:
    points = [CurvePoint(3, 9), CurvePoint(1, 12), CurvePoint(2, 8), CurvePoint(3, 7)]
    assert never_rising(points) == (CurvePoint(1, 12), CurvePoint(2, 8), CurvePoint(3, 7))
    assert never_rising([CurvePoint(1, 5), CurvePoint(2, 6)])[1].step_ns == 5


def test_a_plan_is_one_for_more_memory_where_no_other_is_found(
    job: CompileJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, search = f"{int(0.75 * job.roomy_bytes)}B", CompileJob.search

    def only_wanted(self: CompileJob, options: CompileOptions, late_share: float = 1.0) -> Result:
        if options.budget != wanted:
            raise SolverTimeoutError("no time")
        return search(self, options, late_share)

    monkeypatch.setattr(CompileJob, "search", only_wanted)
    plan = planned(job, 0.75)
    less, more = changes(plan)
    assert (less.step_ns, less.text) == (None, "no plan was found in the time for it")
    assert (more.step_ns, more.text) == (plan.prediction.step_ns, "the same step")
