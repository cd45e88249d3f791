"""The solver's memory accounting against an independent count, operator by operator.

The problem counts whole layers; what is packed counts operators. The count below knows only which storage is touched at
which slot and where copies start and stop, and must never exceed what the solver was told.
"""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from support import networks
from support.costs import made_up_costs
from support.plans import plan_of
from support.schedules import random_schedule

from planc.planning.build import build_problem
from planc.schedule.residency import memory_profile

NETWORKS = [networks.cnn, networks.mlp, networks.adam_mlp]


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(NETWORKS), st.integers(0, 10**6))
def test_no_slot_needs_more_than_the_solver_was_told(make, seed: int) -> None:
    imported = make()
    planning = build_problem(imported.graph, made_up_costs(imported.graph))
    schedule = random_schedule(planning.problem, seed)
    profile = memory_profile(planning.problem, schedule)
    plan = plan_of(imported, schedule)
    slots = [step for step, layer in enumerate(schedule.steps) for _ in _ops(imported.graph, layer)]
    held = [Counter() for _ in slots]
    for stay in plan.residencies:
        for slot in range(stay.begin, min(stay.end, len(slots))):
            held[slot][stay.offset] = max(held[slot][stay.offset], stay.bytes)
    for slot, step in enumerate(slots):
        assert sum(held[slot].values()) <= profile[step]


def _ops(graph, layer: int) -> range:
    return range(graph.layers[layer].start, graph.layers[layer].stop)


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(NETWORKS), st.integers(0, 10**6))
def test_the_slab_is_at_least_its_load_and_near_it(make, seed: int) -> None:
    imported = make()
    planning = build_problem(imported.graph, made_up_costs(imported.graph))
    schedule = random_schedule(planning.problem, seed)
    memory = plan_of(imported, schedule).memory
    assert memory.load_bytes <= memory.slab_bytes <= 1.2 * max(memory_profile(planning.problem, schedule))
