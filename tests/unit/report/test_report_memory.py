"""Memory accounting against brute force over addresses, the packer's load, and storage-level liveness."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.concats import branches
from support.networks import adam_mlp, cnn
from support.plans import plan_of, random_plan

from planc.graph.footprint import footprints, padded_bytes
from planc.graph.graph import Graph, Role
from planc.graph.liveness import live_bytes
from planc.plan.plan import Plan
from planc.report.memory import (
    MemoryCurve,
    by_content,
    by_kind,
    by_phase,
    fullest_points,
    memory_over_slots,
    memory_over_time,
    peak_of,
    unplanned_bytes,
)
from planc.report.view import view_of
from planc.schedule.schedule import Schedule

SEEDS = range(8)
NETWORKS = {"cnn": cnn, "adam_mlp": adam_mlp, "branches": branches}


@functools.cache
def _plan(network: str, seed: int) -> Plan:
    return random_plan(NETWORKS[network](), seed, scratch_in_slab=seed % 2 == 0)


def _union_bytes(plan: Plan, slot: int) -> int:
    """Bytes of the slab that residencies and scratch cover at a slot: a union of address ranges, in-place bytes once."""
    covered, at = 0, 0
    held = [(r.offset, r.offset + r.bytes) for r in plan.residencies if r.begin <= slot < r.end]
    run, operators = 0, plan.layers[plan.runs[0].layer].operators
    while operators <= slot:
        run += 1
        operators += plan.layers[plan.runs[run].layer].operators
    for region, (first, last) in zip(plan.scratch, plan.segments, strict=False):
        if first <= run < last:
            held.append((region.offset, region.offset + region.bytes))
    for begin, end in sorted(held):
        covered += max(0, end - max(begin, at))
        at = max(at, end)
    return covered


def _value_at(curve: MemoryCurve, at: int) -> int:
    index = int(np.searchsorted(curve.at, at, "right")) - 1
    return int(curve.total[index])


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("network", NETWORKS)
def test_slots_match_the_union_of_addresses(network: str, seed: int) -> None:
    plan = _plan(network, seed)
    view = view_of(plan)
    curve = memory_over_slots(view)
    expected = [_union_bytes(plan, slot) for slot in range(view.slots)]
    assert [_value_at(curve, slot) for slot in range(view.slots)] == expected
    assert curve.peak_bytes == max(expected)
    assert curve.at[0] == 0
    assert curve.total[-1] == 0
    assert curve.at[-1] == view.slots


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("network", NETWORKS)
def test_time_has_the_same_peak_and_values_during_runs(network: str, seed: int) -> None:
    plan = _plan(network, seed)
    view = view_of(plan)
    slots, time = memory_over_slots(view), memory_over_time(view)
    assert time.peak_bytes == slots.peak_bytes == plan.memory.load_bytes
    assert list(time.at) == sorted(time.at)
    for slot in range(view.slots):
        run = view.run_at(slot)
        end = min(view.slot_ns(slot + 1), plan.prediction.runs[run][1])
        if end > view.slot_ns(slot):
            assert _value_at(time, end - 1) == _value_at(slots, slot)


@pytest.mark.parametrize("by", [by_content, by_kind, by_phase])
def test_groupings_add_up_to_the_same_total(by: object) -> None:
    view = view_of(_plan("cnn", 3))
    assert (memory_over_slots(view, by).total == memory_over_slots(view).total).all()  # type: ignore[arg-type]


def test_peak_lists_what_is_resident_there() -> None:
    view = view_of(_plan("cnn", 1))
    peak = peak_of(view)
    assert peak.bytes == memory_over_slots(view).peak_bytes == _union_bytes(view.plan, peak.slot)
    assert sum(stay.bytes for stay in peak.residencies) == peak.bytes
    assert view.first_slot[peak.run] <= peak.slot < view.first_slot[peak.run + 1]
    sizes = [stay.bytes for stay in peak.residencies]
    assert sizes == sorted(sizes, reverse=True)


@settings(deadline=None, max_examples=60)
@given(
    steps=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 100)), min_size=1, max_size=30),
    bins=st.integers(1, 12),
)
def test_fullest_points_keep_the_maximum_of_every_bin(steps: list[tuple[int, int]], bins: int) -> None:
    at = np.cumsum([0, *(gap for gap, _ in steps)]).astype(np.int64)
    values = np.array([0, *(value for _, value in steps)], np.int64)
    curve = MemoryCurve(at, {"all": values})
    edges = np.linspace(0, max(int(at[-1]), bins) + 1, bins + 1).astype(np.int64)
    picked = values[fullest_points(curve, edges)]
    for i in range(bins):
        ends = [*at[1:], 1 << 40]
        lasting = [
            v for a, b, v in zip(at, ends, values, strict=True)
            if a < edges[i + 1] and (b > edges[i] or a >= edges[i])
        ]  # fmt: skip
        assert picked[i] == max(lasting)


def _brute_force_live(graph: Graph) -> list[int]:
    """Entry bytes of every layer from operators alone, plus the layer's own working bytes."""
    first, last = {}, {}
    for index, layer in enumerate(graph.layers):
        for op in range(layer.start, layer.stop):
            for storage in (*graph.op_reads[op], *graph.op_writes[op]):
                first.setdefault(storage, index)
                last[storage] = index
    always = {s for s in last if graph.storages[s].role in (Role.STATE, Role.CONSTANT)} | graph.output_storages
    found = []
    for index, footprint in enumerate(footprints(graph)):
        live = {
            s for s in last
            if (first[s] < index or graph.storages[s].role is not Role.COMPUTED)
            and (last[s] >= index or s in always)
        }  # fmt: skip
        found.append(sum(padded_bytes(graph, s) for s in live) + footprint.working_bytes)
    return found


@pytest.mark.parametrize("network", NETWORKS)
def test_live_bytes_match_brute_force(network: str) -> None:
    graph = NETWORKS[network]().graph
    assert list(live_bytes(graph, footprints(graph))) == _brute_force_live(graph)


def test_unplanned_step_is_what_a_plan_without_decisions_needs() -> None:
    imported = cnn()
    plan = plan_of(imported, Schedule(tuple(range(len(imported.graph.layers)))))
    view = view_of(plan)
    unplanned = unplanned_bytes(view, imported.graph)
    assert max(unplanned) == memory_over_slots(view).peak_bytes
    scratch = 2 << 20
    assert max(unplanned) + scratch == plan.memory.liveness_peak_bytes


def test_a_recomputation_has_no_unplanned_counterpart() -> None:
    view = view_of(_plan("cnn", 2))
    assert any(view.is_repeat)
    live = live_bytes(cnn().graph, footprints(cnn().graph))
    unplanned = unplanned_bytes(view, cnn().graph)
    for position, run in enumerate(view.plan.runs):
        expected = unplanned[position - 1] if view.is_repeat[position] else live[run.layer]
        assert unplanned[position] == expected
