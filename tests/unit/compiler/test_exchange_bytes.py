"""What exchanges hold of a device is part of the budget, and on top of one that is a share of the liveness peak."""

import msgspec
import pytest
from support.costs import made_up_costs
from support.networks import forward_cnn

from planc.compiler.job import CompileJob
from planc.compiler.options import CompileOptions
from planc.costs.table import CostTable
from planc.errors import InfeasibleBudgetError
from planc.importer.import_model import ImportedModel, import_model
from planc.training import Optimizer, differentiate
from planc.training.step_options import StepOptions

HELD = 100_000


@pytest.fixture(scope="module")
def imported() -> ImportedModel:
    options = StepOptions(ranks=2, bucket_bytes=1000)
    return import_model(
        differentiate(forward_cnn(), loss="cross-entropy", optimizer=Optimizer("momentum"), options=options)
    )


def costs(imported: ImportedModel, held: int) -> CostTable:
    table = made_up_costs(imported.graph)
    assert table.exchange is not None
    return msgspec.structs.replace(table, exchange=msgspec.structs.replace(table.exchange, device_bytes=held))


def job(imported: ImportedModel, held: int) -> CompileJob:
    return CompileJob.of(imported, costs(imported, held))


def test_what_exchanges_hold_is_counted(imported: ImportedModel) -> None:
    plain, held = job(imported, 0), job(imported, HELD)
    budget = plain.roomy_bytes
    assert held.roomy_bytes == budget + HELD
    first = plain.compile(CompileOptions(f"{budget}B", time_limit_s=0.3)).plan
    second = held.compile(CompileOptions(f"{budget + HELD}B", time_limit_s=0.3)).plan
    assert second.memory.session_bytes - first.memory.session_bytes == HELD
    assert second.memory.minimum_budget_bytes - first.memory.minimum_budget_bytes == HELD
    assert second.memory.slab_bytes + second.memory.scratch_bytes + HELD <= budget + HELD
    with pytest.raises(InfeasibleBudgetError) as refused:
        held.compile(CompileOptions(f"{HELD}B", time_limit_s=0.3))
    assert refused.value.minimum_budget_bytes > HELD


def test_a_share_is_of_what_plans_change(imported: ImportedModel) -> None:
    plain, held = job(imported, 0), job(imported, HELD)
    assert held.budget_bytes("70%") == plain.budget_bytes("70%") + HELD
    assert held.budget_bytes("1MiB") == plain.budget_bytes("1MiB")
    assert held.budget_bytes("min") == plain.budget_bytes("min") + HELD
