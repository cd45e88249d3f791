"""Where scratch cuts segments: never a higher load than single runs have, every run covered, copies respected."""

import random
from dataclasses import replace

import msgspec
import pytest
from support import networks
from support.costs import made_up_costs
from support.schedules import random_schedule

from planc.costs.table import CostTable, FormCost
from planc.graph.footprint import padded_bytes
from planc.lowering.lower import lower
from planc.lowering.residencies import residencies_of, slot_map
from planc.lowering.segments import segments_of
from planc.planning.build import build_problem, least_arena_bytes


@pytest.mark.parametrize("seed", range(8))
def test_regions_cover_the_need_and_raise_no_load_above_that_of_single_runs(seed: int) -> None:
    imported = networks.cnn()
    rng = random.Random(seed)
    need = [rng.choice([0, 64, 4096, 65536]) for _ in imported.graph.layers]
    planning = build_problem(imported.graph, made_up_costs(imported.graph))
    planning = replace(planning, layer_scratch=tuple((size,) for size in need))
    schedule = random_schedule(planning.problem, seed)
    slots = slot_map(imported.graph, schedule.steps)
    stays = residencies_of(slots, planning, schedule)
    segments = segments_of(slots, planning, schedule, stays)
    covered = [run for s in segments for run in range(s.first, s.end)]
    assert covered == list(range(len(schedule.steps)))
    starts = {s.first for s in segments} | {len(schedule.steps)}
    assert {p for copy in schedule.copies for p in (copy.start, copy.stop)} <= starts

    def load(run: int) -> int:
        alive = [
            [s for s in stays if s.begin <= slot < s.end] for slot in range(slots.begin[run], slots.begin[run + 1])
        ]
        return max(sum(padded_bytes(imported.graph, s.storage) for s in group) for group in alive)

    loads = [load(run) for run in covered]
    least = max(a + need[layer] for a, layer in zip(loads, schedule.steps, strict=True))
    for s in segments:
        assert s.scratch == max(need[schedule.steps[run]] for run in range(s.first, s.end))
        if len({need[schedule.steps[run]] for run in range(s.first, s.end)}) > 1:
            assert max(loads[s.first : s.end]) + s.scratch <= least


def test_without_scratch_in_the_slab_only_copies_cut() -> None:
    imported = networks.cnn()
    planning = build_problem(imported.graph, made_up_costs(imported.graph))
    schedule = random_schedule(planning.problem, 1)
    slots = slot_map(imported.graph, schedule.steps)
    segments = segments_of(slots, planning, schedule, residencies_of(slots, planning, schedule))
    cuts = {p for copy in schedule.copies for p in (copy.start, copy.stop)} | {0, len(schedule.steps)}
    assert [s.first for s in segments] == sorted(cuts)[:-1]
    assert all(s.scratch == 0 for s in segments)


def with_forms(costs: CostTable) -> CostTable:
    """Every third kind of layer has a form that takes twice as long with a quarter of the scratch."""
    unique = tuple(
        msgspec.structs.replace(
            cost,
            alternatives={"lean": FormCost(compute_ns=2 * cost.compute_ns, scratch_bytes=cost.scratch_bytes // 4)}
            if i % 3 == 0
            else {},
        )
        for i, cost in enumerate(costs.unique)
    )
    return msgspec.structs.replace(costs, unique=unique)


@pytest.mark.parametrize("placed", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_every_run_gets_the_form_of_its_choice_and_the_scratch_of_that_form(seed: int, placed: bool) -> None:
    imported = networks.cnn()
    costs = with_forms(made_up_costs(imported.graph))
    planning = build_problem(imported.graph, costs, placed)
    tasks, rng = planning.problem.tasks, random.Random(seed)
    schedule = random_schedule(planning.problem, seed)
    schedule = replace(schedule, choices=tuple(rng.randrange(len(tasks[i].forms)) for i in schedule.steps))
    lowered = lower(imported.graph, planning, schedule, time_limit_s=0.0)
    assert any(run.form == "lean" for run in lowered.runs)
    for number, (first, end) in enumerate(lowered.segments):
        assert len({run.form for run in lowered.runs[first:end]}) == 1
        for at in range(first, end):
            layer, choice = schedule.steps[at], schedule.choice(at)
            form = ("", "lean")[choice]
            cost = costs.layer(layer)
            assert not cost.alternatives or lowered.runs[at].form == form
            need = cost.alternatives[form].scratch_bytes if form else cost.scratch_bytes
            assert not placed or lowered.scratch[number].bytes >= need
    assert bool(lowered.scratch) == placed


def test_an_arena_beside_the_slab_takes_only_forms_that_fit_it() -> None:
    imported = networks.cnn()
    costs = made_up_costs(imported.graph, scratch=1000)
    forms = {"hungry": FormCost(compute_ns=1, scratch_bytes=1001), "lean": FormCost(compute_ns=9, scratch_bytes=10)}
    unique = tuple(msgspec.structs.replace(cost, alternatives=forms) for cost in costs.unique)
    costs = msgspec.structs.replace(costs, unique=unique)
    assert set(build_problem(imported.graph, costs).forms) == {("", "lean")}
    assert set(build_problem(imported.graph, costs, scratch_in_slab=True).forms) == {("", "hungry", "lean")}
    assert least_arena_bytes(imported.graph, costs) == 10
    lean = build_problem(imported.graph, costs, arena_bytes=10)
    assert set(lean.forms) == {("lean",)}
    assert {task.duration_ns for task in lean.problem.tasks} == {9}
    assert lean.scratch_bytes == 10
    lowered = lower(imported.graph, lean, random_schedule(lean.problem, 0), time_limit_s=0.0)
    assert {run.form for run in lowered.runs} == {"lean"}
