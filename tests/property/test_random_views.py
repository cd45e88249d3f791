"""Views at a byte offset and Concats by placement: whatever the graph, a planned step computes the bits of plain ONNX
Runtime; plans that free, shorten or overwrite what a view still reads are rejected."""

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.adversary import judge
from support.concats import concat_graphs
from support.costs import made_up_costs
from support.plans import random_plan
from support.views import stacked, view_graphs

from planc.compiler.job import compile_model
from planc.compiler.options import CompileOptions
from planc.errors import InfeasibleBudgetError
from planc.importer.import_model import ImportedModel
from planc.plan.plan import Plan
from planc.planning.build import build_problem
from planc.runtime.measure import measure
from planc.runtime.step import load
from planc.verifier.verify import verify

GRAPHS = st.one_of(view_graphs(), concat_graphs())


def at_share(imported: ImportedModel, percent: int) -> Plan:
    """The plan at `percent` of the liveness peak, or at the smallest feasible budget above it."""
    costs = made_up_costs(imported.graph, scratch=0)
    budget = build_problem(imported.graph, costs).liveness_peak_bytes * percent // 100
    try:
        return compile_model(imported, costs, CompileOptions(str(budget), time_limit_s=1.0)).plan
    except InfeasibleBudgetError as error:
        return compile_model(imported, costs, CompileOptions(str(error.minimum_budget_bytes), time_limit_s=1.0)).plan


@settings(deadline=None, max_examples=50)
@given(imported=GRAPHS, percent=st.sampled_from([100, 60]))
def test_random_graphs_of_views_compute_the_bits_of_onnx_runtime(imported: ImportedModel, percent: int) -> None:
    graph = imported.graph
    for tensor in graph.tensors:
        assert 0 <= tensor.offset <= graph.storages[tensor.storage].nbytes - tensor.nbytes
    plan = at_share(imported, percent)
    assert verify(graph, plan) == ()
    with load(plan, imported) as step:
        assert measure(step, 2, 0, compare=True).bitwise_equal is True


@settings(deadline=None, max_examples=50)
@given(imported=GRAPHS, seed=st.integers(0, 10**6))
def test_any_schedule_of_views_is_valid_under_every_interleaving(imported: ImportedModel, seed: int) -> None:
    plan = random_plan(imported, seed, scratch_in_slab=seed % 2 == 0)
    assert verify(imported.graph, plan) == ()
    assert judge(imported.graph, plan, range(3)) is None
    with load(plan, imported) as step:
        assert measure(step, 2, seed, compare=True).bitwise_equal is True


def _altered(plan: Plan, storage: str, **change: int) -> Plan:
    """The first residency of `storage` changed."""
    at = next(i for i, stay in enumerate(plan.residencies) if stay.storage == storage)
    stay = msgspec.structs.replace(plan.residencies[at], **change)
    return msgspec.structs.replace(plan, residencies=(*plan.residencies[:at], stay, *plan.residencies[at + 1 :]))


def test_a_storage_that_is_freed_while_a_view_is_read_is_rejected() -> None:
    imported = stacked()
    graph, plan = imported.graph, at_share(imported, 100)
    order = [op for run in plan.runs for op in range(graph.layers[run.layer].start, graph.layers[run.layer].stop)]
    view = next(i for i, t in enumerate(graph.tensors) if t.name == "one")
    last = max(slot for slot, op in enumerate(order) if view in graph.ops[op].inputs)
    assert graph.storages[graph.tensors[view].storage].name == "h"
    assert verify(graph, _altered(plan, "h", end=last + 1)) == ()
    assert "absent" in {v.kind for v in verify(graph, _altered(plan, "h", end=last))}


def test_a_residency_without_room_for_the_last_view_is_rejected() -> None:
    imported = stacked()
    last = next(t for t in imported.graph.tensors if t.name == "b")
    plan = _altered(at_share(imported, 100), "h", bytes=last.offset + last.nbytes - 256)
    assert [v.kind for v in verify(imported.graph, plan)] == ["size"]


def test_bytes_of_a_view_that_another_storage_takes_are_rejected() -> None:
    """Only the row that the last view reads is overwritten, while the rest of its storage is dead."""
    imported = stacked()
    plan = at_share(imported, 100)
    stays = {stay.storage: stay for stay in plan.residencies}
    row = next(t for t in imported.graph.tensors if t.name == "one")
    moved = _altered(plan, "y", offset=stays["h"].offset + row.offset)
    kinds = {v.kind for v in verify(imported.graph, moved)}
    assert kinds
    assert judge(imported.graph, moved, range(3)) is not None


@pytest.mark.parametrize("name", ["w1", "w2", "b", "one"])
def test_a_view_one_element_off_changes_the_bits(name: str) -> None:
    imported = stacked()
    plan = at_share(imported, 100)
    tensors = tuple(replace(t, offset=t.offset - 4) if t.name == name else t for t in imported.graph.tensors)
    assert tensors != imported.graph.tensors
    shifted = replace(imported, graph=replace(imported.graph, tensors=tensors))
    with load(plan, shifted) as step:
        assert measure(step, 1, 0, compare=True).bitwise_equal is False
