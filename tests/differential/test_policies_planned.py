"""Every policy through the whole compiler: within the least budget that it has a plan for, the unplanned step's bits."""

import pytest
from support.costs import made_up_costs
from support.networks import cnn

from planc.compiler.job import CompileJob
from planc.compiler.options import CompileOptions
from planc.errors import InfeasibleBudgetError, SolverTimeoutError
from planc.plan.plan import Plan
from planc.runtime.measure import measure
from planc.runtime.step import load
from planc.schedule.solver import solver_names
from planc.verifier.verify import verify

SHARES = (60, 75, 85, 92, 100, 300)
"""Budgets in % of the liveness peak; only Caffe needs the last."""

STAYS = {"caffe", "keep-all"}
"""Policies that never move or repeat anything."""


def _tightest(job: CompileJob, name: str) -> tuple[Plan, int]:
    """The plan within the smallest of the budgets for which the policy has one."""
    for share in SHARES:
        try:
            return job.compile(CompileOptions(f"{share}%", name, time_limit_s=2.0)).plan, share
        except (InfeasibleBudgetError, SolverTimeoutError):
            continue
    raise AssertionError(f"{name} has no plan")


@pytest.mark.parametrize("name", solver_names())
def test_a_policys_plan_is_valid_and_computes_the_same_bits(name: str) -> None:
    imported = cnn()
    job = CompileJob.of(imported, made_up_costs(imported.graph))
    plan, share = _tightest(job, name)
    assert verify(imported.graph, plan) == ()
    assert plan.memory.slab_bytes + plan.memory.scratch_bytes <= plan.memory.budget_bytes
    decided = bool(plan.copies) or len(plan.runs) > len(imported.graph.layers)
    assert decided == (share < 100 or name in ("vdnn-all", "vdnn-conv", "layrub", "layup", "sqrt-n")), share
    assert name not in STAYS or not decided
    with load(plan, imported) as step:
        assert measure(step, steps=2, seed=0, compare=True).bitwise_equal is True
