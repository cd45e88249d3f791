"""Every network of the zoo compiles into a tight budget, and its planned step computes the unplanned step's bits."""

import pytest
from support.costs import made_up_costs
from support.zoo_networks import MOMENTUM, SMALL, small_step

from planc.compiler.job import compile_model
from planc.compiler.options import CompileOptions
from planc.costs.table import CostTable
from planc.errors import InfeasibleBudgetError
from planc.importer.import_model import ImportedModel, import_model
from planc.plan.residency_index import ResidencyIndex
from planc.planning.build import build_problem
from planc.runtime.measure import measure
from planc.runtime.step import load
from planc.training import differentiate
from planc.verifier.verify import verify
from planc.zoo import ZooOptions, build_forward

MANY_LAYERS = 400
"""Networks of more layers are planned by recomputation alone: each copy would cut the step into one more session."""


def tight_budget(imported: ImportedModel, costs: CostTable, share: int) -> int:
    """The liveness peak less one `share` of what lies between it and the smallest feasible budget."""
    with pytest.raises(InfeasibleBudgetError) as refused:
        compile_model(imported, costs, CompileOptions("1B"))
    peak = build_problem(imported.graph, costs).liveness_peak_bytes
    assert refused.value.minimum_budget_bytes < peak
    return peak - (peak - refused.value.minimum_budget_bytes) // share


@pytest.mark.parametrize("name", SMALL)
def test_a_planned_step_computes_the_same_bits(name: str) -> None:
    imported = import_model(small_step(name, MOMENTUM))
    graph, costs = imported.graph, made_up_costs(imported.graph)
    solver, share = ("mip", 2) if len(graph.layers) <= MANY_LAYERS else ("sqrt-n", 8)
    budget = tight_budget(imported, costs, share)
    compiled = compile_model(imported, costs, CompileOptions(str(budget), solver, time_limit_s=1.0))
    plan = compiled.plan
    assert verify(graph, plan) == ()
    assert plan.memory.slab_bytes + plan.memory.scratch_bytes <= budget < plan.memory.liveness_peak_bytes
    assert plan.copies or compiled.solution.schedule.steps != tuple(range(len(graph.layers)))
    with load(plan, imported) as step:
        result = measure(step, steps=2, seed=0, compare=True)
    assert result.bitwise_equal is True
    assert len(result.losses) == 2


PLACED = [
    ("squeezenet", 112, 8, None),
    ("squeezenet", 112, 8, 8),
    ("shufflenet", 64, 3, 8),
    pytest.param("densenet121", 64, 57, None, marks=pytest.mark.slow),
]
"""Networks, their image, and the number of their Concats, at batch 1, that do not run; the share of a tight budget."""


@pytest.mark.parametrize(("name", "image", "count", "share"), PLACED)
def test_concats_by_placement_at_batch_1_compute_the_same_bits(
    name: str, image: int, count: int, share: int | None
) -> None:
    forward = build_forward(name, ZooOptions(batch=1, image=image, classes=10))
    model = differentiate(forward.model, loss=forward.loss, optimizer=MOMENTUM, parameters=forward.parameters)
    imported = import_model(model)
    graph, costs = imported.graph, made_up_costs(imported.graph)
    budget = "100%" if share is None else str(tight_budget(imported, costs, share))
    plan = compile_model(imported, costs, CompileOptions(budget, time_limit_s=2.0)).plan
    assert verify(graph, plan) == ()
    ops = [op for run in plan.runs for op in range(graph.layers[run.layer].start, graph.layers[run.layer].stop)]
    placed = {ops[at] for at in ResidencyIndex(plan.residencies).placed(graph, ops, 0)}
    assert all(graph.ops[op].op_type == "Concat" for op in placed)
    assert len(placed) == count if share is None else len(placed) > 0
    with load(plan, imported) as step:
        assert measure(step, steps=2, seed=0, compare=True).bitwise_equal is True
