"""Concats by placement in lowering: where, never at the price of load, and what the runtime makes of it."""

from collections import Counter

import pytest
from onnx import helper
from support.adversary import judge
from support.concats import branches
from support.costs import made_up_costs
from support.graphs import step_model
from support.plans import random_plan
from support.schedules import random_schedule

from planc.compiler.job import compile_model
from planc.compiler.options import CompileOptions
from planc.compiler.sessions import distinct_sessions
from planc.importer.import_model import ImportedModel, import_model
from planc.lowering.blocks import Blocks
from planc.lowering.lower import Lowered, Lowering, lower
from planc.plan.executed import executed
from planc.plan.plan import Plan
from planc.plan.residency_index import ResidencyIndex
from planc.planning.build import build_problem
from planc.runtime.measure import measure
from planc.runtime.step import load
from planc.schedule.schedule import Schedule
from planc.verifier.verify import verify


def placed(imported: ImportedModel, plan: Plan | Lowered) -> list[str]:
    """Names of the Concats that do not run."""
    parts = executed(imported.graph, plan.runs, plan.segments, ResidencyIndex(plan.residencies))
    return [imported.graph.ops[part.ops[at]].name for part in parts for at in sorted(part.placed)]


def compiled(imported: ImportedModel) -> Plan:
    costs = made_up_costs(imported.graph, scratch=0)
    return compile_model(imported, costs, CompileOptions("100%", time_limit_s=1.0)).plan


def test_the_unconstrained_step_copies_nothing() -> None:
    imported = branches()
    plan = compiled(imported)
    assert placed(imported, plan) == ["first", "second"]
    with load(plan, imported) as step:
        assert measure(step, 2, 0, compare=True).bitwise_equal is True


@pytest.mark.parametrize("seed", range(20))
def test_no_load_rises_and_buffers_hold_what_stays_hold(seed: int) -> None:
    imported = branches()
    planning = build_problem(imported.graph, made_up_costs(imported.graph))
    schedule = random_schedule(planning.problem, seed)
    found = []
    for inside in (True, False):
        lowering = Lowering.of(imported.graph, planning, schedule, inside)
        assert lowering.has_inside <= inside
        blocks = Blocks(imported.graph, lowering.residencies)
        assert len(lowering.buffers) == len(blocks.members) + len(lowering.segments)
        found.append(int(blocks.loads(lowering.slots.total).max()))
        for stay in lowering.residencies:
            if stay.inside is not None:
                output = lowering.residencies[stay.inside[0]]
                assert stay.end == output.begin + 1
                assert not stay.copied_out
    assert found[0] <= found[1]


def test_swapped_pieces_and_repeated_concats_are_placed_too() -> None:
    """Among random schedules there are pieces that came back from the host, and Concats that run again, in their places;
    all of them compute the right bits."""
    imported, seen = branches(), Counter[str]()
    ops = [imported.graph.ops[layer.start] for layer in imported.graph.layers]
    for seed in range(40):
        planning = build_problem(imported.graph, made_up_costs(imported.graph))
        lowering = Lowering.of(imported.graph, planning, random_schedule(planning.problem, seed))
        pieces = [stay for stay in lowering.residencies if stay.inside is not None]
        runs = Counter(lowering.slots.steps)
        concats = {layer for layer, op in enumerate(ops) if op.op_type == "Concat"}
        kinds = {
            "swapped": any(stay.copied_in is not None for stay in pieces),
            "again": bool(pieces) and any(runs[layer] > 1 for layer in concats),
        }
        if any(kinds.values()):
            plan = random_plan(imported, seed)
            assert judge(imported.graph, plan, range(3)) is None
            with load(plan, imported) as step:
                assert measure(step, 2, seed, compare=True).bitwise_equal is True
        seen.update(kind for kind, found in kinds.items() if found)
    assert min(seen["swapped"], seen["again"]) > 0


def test_a_step_that_makes_every_piece_again_places_the_second_concat_as_the_first() -> None:
    imported = branches()
    graph = imported.graph
    planning = build_problem(graph, made_up_costs(graph))
    steps = list(range(len(graph.layers)))
    loss = next(i for i, layer in enumerate(graph.layers) if graph.ops[layer.start].op_type == "ReduceMean")
    schedule = Schedule((*steps[: loss + 1], *steps[: loss - 1], *steps[loss + 1 :]))
    lowered = lower(graph, planning, schedule)
    assert placed(imported, lowered) == ["first", "second", "first", "second"]


def test_a_piece_made_long_before_the_others_is_copied_where_memory_is_short_meanwhile() -> None:
    node = helper.make_node
    nodes = [
        node("Tanh", ["x"], ["a"]),
        node("MatMul", ["c", "d"], ["big"]), node("ReduceSum", ["big"], ["r"], keepdims=0),
        node("Transpose", ["z"], ["tz"]), node("Mul", ["tz", "r"], ["b"]),
        node("Concat", ["a", "b"], ["s"], axis=0, name="join"), node("ReduceSum", ["s"], ["y"], keepdims=0),
    ]  # fmt: skip
    for size, expected in ((256, []), (16, ["join"])):
        inputs = {"x": [8, 64], "z": [64, 8], "c": [size, 1], "d": [1, size]}
        imported = import_model(step_model(nodes, inputs, {"y": []}))
        plan = compiled(imported)
        assert placed(imported, plan) == expected
        with load(plan, imported) as step:
            assert measure(step, 2, 0, compare=True).bitwise_equal is True


def test_segments_that_only_join_have_no_session_and_sessions_are_counted_as_they_are_opened() -> None:
    imported, alone = branches(), 0
    for seed in range(30):
        plan = random_plan(imported, seed)
        with load(plan, imported) as step:
            assert step.device.session_count == distinct_sessions(imported, plan)  # it has runs, segments, residencies
            empty = [
                part.empty for part in executed(imported.graph, plan.runs, plan.segments, step._executor.residencies)
            ]
            assert empty == [segment.loaded is None for segment in step._executor._parts[:-1]]
            alone += empty.count(True)
    assert alone > 0


def test_copies_are_the_fallback_of_a_plan_that_does_not_pack(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Concats by placement miss the capacity, the same schedule is packed without."""
    imported = branches()
    pack = Lowering.pack

    def crowded(lowering: Lowering, *options: object, **named: object) -> object:
        packing = pack(lowering, *options, **named)  # type: ignore[arg-type]
        return _raised(packing) if lowering.has_inside else packing

    monkeypatch.setattr(Lowering, "pack", crowded)
    plan = compiled(imported)
    assert placed(imported, plan) == []
    assert verify(imported.graph, plan) == ()


def _raised(packing: object) -> object:
    from dataclasses import replace

    return replace(packing, height=2 * packing.height)  # type: ignore[type-var, attr-defined]
