"""Which form of a layer a compiled plan takes: the fast one where memory allows, the lean one where it does not."""

import msgspec
import pytest
from support import networks
from support.costs import made_up_costs

from planc.compiler.budget import planning_problem
from planc.compiler.job import compile_model
from planc.compiler.options import CompileOptions
from planc.costs.table import CostTable, FormCost
from planc.errors import InfeasibleBudgetError
from planc.importer.import_model import ImportedModel

SCRATCH = 2 << 20


def lean_costs(imported: ImportedModel, kind: str, lean: bool = True) -> CostTable:
    """Every layer needs 2 MiB of scratch, or none where it takes its `lean` form, which is half as fast again."""
    costs = made_up_costs(imported.graph, SCRATCH)
    forms = [{"lean": FormCost(compute_ns=3 * cost.compute_ns // 2, scratch_bytes=0)} for cost in costs.unique]
    unique = tuple(
        msgspec.structs.replace(cost, alternatives=form if lean else {})
        for cost, form in zip(costs.unique, forms, strict=True)
    )
    return msgspec.structs.replace(costs, unique=unique, device=msgspec.structs.replace(costs.device, kind=kind))


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_memory_decides_the_form(kind: str) -> None:
    imported = networks.cnn()
    costs, rigid = (lean_costs(imported, kind, lean) for lean in (True, False))
    roomy = compile_model(imported, costs, CompileOptions("200%", time_limit_s=4.0)).plan
    assert {run.form for run in roomy.runs} == {""}
    with pytest.raises(InfeasibleBudgetError) as caught:
        compile_model(imported, rigid, CompileOptions("1MiB", time_limit_s=4.0))
    assert caught.value.minimum_budget_bytes > SCRATCH
    tight = compile_model(imported, costs, CompileOptions("1MiB", time_limit_s=4.0)).plan
    assert {run.form for run in tight.runs} == {"lean"}
    assert tight.memory.slab_bytes + tight.memory.scratch_bytes <= 1 << 20
    assert tight.prediction.step_ns > roomy.prediction.step_ns


def test_only_the_layers_that_must_are_lean_where_scratch_lies_in_the_slab() -> None:
    imported = networks.cnn()
    costs = lean_costs(imported, "cpu")
    problem = planning_problem(imported.graph, costs).problem
    tasks = range(len(problem.tasks))
    fast = [sum(problem.values[v].bytes for v in problem.accesses[t]) + problem.tasks[t].working_bytes for t in tasks]
    budget = sorted(fast)[len(fast) // 2]
    plan = compile_model(imported, costs, CompileOptions(str(budget), time_limit_s=4.0)).plan
    too_large = {task for task in tasks if fast[task] > budget}
    lean = {run.layer for run in plan.runs if run.form == "lean"}
    assert too_large
    assert too_large <= lean < set(tasks)
