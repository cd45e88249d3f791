"""Where scratch cuts segments: never a higher load than single runs have, every run covered, copies respected."""

import random

import pytest
from support import networks
from support.costs import made_up_costs
from support.schedules import random_schedule

from planc.graph.footprint import padded_bytes
from planc.lowering.segments import segments_of
from planc.lowering.stays import slot_map, stays_of
from planc.problem.build import build_problem


@pytest.mark.parametrize("seed", range(8))
def test_regions_cover_the_need_and_raise_no_load_above_that_of_single_runs(seed: int) -> None:
    imported = networks.cnn()
    planning = build_problem(imported.graph, made_up_costs(imported.graph))
    schedule = random_schedule(planning.problem, seed)
    slots = slot_map(imported.graph, schedule.steps)
    stays = stays_of(slots, planning, schedule)
    rng = random.Random(seed)
    need = [rng.choice([0, 64, 4096, 65536]) for _ in imported.graph.layers]
    segments = segments_of(slots, schedule, stays, need)
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
    segments = segments_of(slots, schedule, stays_of(slots, planning, schedule), ())
    cuts = {p for copy in schedule.copies for p in (copy.start, copy.stop)} | {0, len(schedule.steps)}
    assert [s.first for s in segments] == sorted(cuts)[:-1]
    assert all(s.scratch == 0 for s in segments)
