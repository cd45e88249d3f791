"""A limit on the host tier's memory is kept by the plan, or refused in words."""

import msgspec
import pytest
from support import networks
from support.costs import made_up_costs

from planc.compiler.budget import arena_bytes_of, planning_problem
from planc.compiler.job import compile_model
from planc.compiler.options import CompileOptions
from planc.costs.table import CostTable
from planc.errors import InfeasibleBudgetError, SolverTimeoutError, UsageError
from planc.importer.import_model import ImportedModel
from planc.plan.plan import Plan
from planc.problem.bounds import minimum_budget
from planc.verifier.verify import verify


def _case() -> tuple[ImportedModel, CostTable, int]:
    """A network, its costs, and a budget that only swapping meets."""
    imported = networks.cnn()
    costs = made_up_costs(imported.graph, scratch=1 << 10)
    planning = planning_problem(imported.graph, costs)
    least = minimum_budget(planning.problem)[0] + arena_bytes_of(planning) + costs.device.session_bytes
    return imported, costs, least + (planning.liveness_peak_bytes - least) // 2


def _compiled(host_memory: str | None) -> Plan:
    imported, costs, budget = _case()
    options = CompileOptions(str(budget), time_limit_s=1.0, host_memory=host_memory)
    return compile_model(imported, costs, options).plan


def test_a_plan_keeps_the_limit_that_it_states() -> None:
    free = _compiled(None)
    assert free.memory.host_limit_bytes is None
    assert free.memory.host_bytes > 0
    limit = free.memory.host_bytes * 3 // 4
    held = _compiled(str(limit))
    assert held.memory.host_limit_bytes == limit
    assert held.memory.host_bytes <= limit
    assert held.memory.host_bytes == sum(-(-slot.bytes // 4096) * 4096 for slot in held.host_slots)
    assert held.prediction.step_ns >= free.prediction.step_ns


def test_too_little_host_memory_is_refused_by_name() -> None:
    with pytest.raises((InfeasibleBudgetError, SolverTimeoutError), match="host memory"):
        _compiled("1")


def test_a_policy_that_swaps_more_than_the_host_holds_is_refused() -> None:
    imported, costs, _ = _case()
    with pytest.raises(InfeasibleBudgetError, match="host"):
        compile_model(imported, costs, CompileOptions("100%", "vdnn-all", 1.0, host_memory="1"))


def test_a_limit_that_is_no_size_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="lots"):
        _compiled("lots")


def test_a_plan_over_its_host_limit_is_a_violation() -> None:
    imported, _, _ = _case()
    plan = _compiled(None)
    for limit, kinds in ((plan.memory.host_bytes, set()), (plan.memory.host_bytes - 1, {"over host limit"})):
        memory = msgspec.structs.replace(plan.memory, host_limit_bytes=limit)
        found = verify(imported.graph, msgspec.structs.replace(plan, memory=memory))
        assert {violation.kind for violation in found} == kinds
