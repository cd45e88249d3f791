"""Altered plans: the verifier rejects every alteration that can change what is computed.

An alteration may be harmless (a wait that other waits imply). So each altered plan is either rejected, or the
independent judge finds that every interleaving still computes the right values.
"""

import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import networks
from support.adversary import judge
from support.concats import branches
from support.plans import random_plan

from planc.plan.plan import Plan
from planc.units import ALIGNMENT
from planc.verifier.verify import verify

replace = msgspec.structs.replace


def _with(items: tuple, index: int, item: object) -> tuple:
    return (*items[:index], item, *items[index + 1 :])


def drop_run_wait(plan: Plan, rng: random.Random) -> Plan | None:
    waiting = [i for i, run in enumerate(plan.runs) if run.waits]
    if not waiting:
        return None
    at = rng.choice(waiting)
    waits = list(plan.runs[at].waits)
    waits.remove(rng.choice(waits))
    return replace(plan, runs=_with(plan.runs, at, replace(plan.runs[at], waits=tuple(waits))))


def drop_copy_wait(plan: Plan, rng: random.Random) -> Plan | None:
    waiting = [i for i, copy in enumerate(plan.copies) if copy.waits]
    if not waiting:
        return None
    at = rng.choice(waiting)
    return replace(plan, copies=_with(plan.copies, at, replace(plan.copies[at], waits=())))


def start_copy_early(plan: Plan, rng: random.Random) -> Plan | None:
    late = [i for i, copy in enumerate(plan.copies) if copy.after > 0]
    if not late:
        return None
    at = rng.choice(late)
    earlier = [first for first, _ in plan.segments if first < plan.copies[at].after]
    return replace(plan, copies=_with(plan.copies, at, replace(plan.copies[at], after=rng.choice(earlier))))


def move_residency(plan: Plan, rng: random.Random) -> Plan | None:
    at = rng.randrange(len(plan.residencies))
    stay = plan.residencies[at]
    room = (plan.memory.slab_bytes - stay.bytes) // ALIGNMENT
    offset = rng.randint(0, max(0, room)) * ALIGNMENT
    if offset == stay.offset:
        return None
    return replace(plan, residencies=_with(plan.residencies, at, replace(stay, offset=offset)))


def swap_runs(plan: Plan, rng: random.Random) -> Plan | None:
    at = rng.randrange(len(plan.runs) - 1)
    a, b = plan.runs[at], plan.runs[at + 1]
    swapped = (replace(b, waits=a.waits), replace(a, waits=b.waits))
    return replace(plan, runs=(*plan.runs[:at], *swapped, *plan.runs[at + 2 :]))


def repeat_run(plan: Plan, rng: random.Random) -> Plan | None:
    at = rng.randrange(len(plan.runs))
    return replace(plan, runs=_with(plan.runs, at, replace(plan.runs[at], layer=rng.choice(plan.runs).layer)))


def move_host_slot(plan: Plan, rng: random.Random) -> Plan | None:
    if not plan.copies:
        return None
    at = rng.randrange(len(plan.copies))
    other = rng.choice(plan.copies).host_offset
    return replace(plan, copies=_with(plan.copies, at, replace(plan.copies[at], host_offset=other)))


def retarget_copy(plan: Plan, rng: random.Random) -> Plan | None:
    if not plan.copies:
        return None
    at, to = rng.randrange(len(plan.copies)), rng.randrange(len(plan.residencies))
    return replace(plan, copies=_with(plan.copies, at, replace(plan.copies[at], residency=to)))


def shift_lifetime(plan: Plan, rng: random.Random) -> Plan | None:
    at = rng.randrange(len(plan.residencies))
    stay = plan.residencies[at]
    begin = max(0, stay.begin + rng.choice((-3, -1, 1, 3)))
    return replace(
        plan, residencies=_with(plan.residencies, at, replace(stay, begin=begin, end=max(begin + 1, stay.end)))
    )


def flip_initial(plan: Plan, rng: random.Random) -> Plan | None:
    if not plan.host_slots:
        return None
    at = rng.randrange(len(plan.host_slots))
    slot = plan.host_slots[at]
    return replace(plan, host_slots=_with(plan.host_slots, at, replace(slot, initial=not slot.initial)))


def move_scratch(plan: Plan, rng: random.Random) -> Plan | None:
    used = [i for i, region in enumerate(plan.scratch) if region.bytes]
    if not used:
        return None
    at = rng.choice(used)
    room = (plan.memory.slab_bytes - plan.scratch[at].bytes) // ALIGNMENT
    moved = replace(plan.scratch[at], offset=rng.randint(0, room) * ALIGNMENT)
    return None if moved == plan.scratch[at] else replace(plan, scratch=_with(plan.scratch, at, moved))


def grow_scratch(plan: Plan, rng: random.Random) -> Plan | None:
    if not plan.scratch:
        return None
    at = rng.randrange(len(plan.scratch))
    region = plan.scratch[at]
    most = plan.memory.slab_bytes - region.offset
    size = rng.randint(region.bytes // ALIGNMENT, most // ALIGNMENT) * ALIGNMENT
    return replace(plan, scratch=_with(plan.scratch, at, replace(region, bytes=size)))


def shift_scratch(plan: Plan, rng: random.Random) -> Plan | None:
    if len(plan.scratch) < 2:
        return None
    at = rng.randrange(len(plan.scratch) - 1)
    a, b = plan.scratch[at], plan.scratch[at + 1]
    return None if a == b else replace(plan, scratch=(*plan.scratch[:at], b, a, *plan.scratch[at + 2 :]))


def move_a_little(plan: Plan, rng: random.Random) -> Plan | None:
    """To where a part of the same bytes may be taken, or of those around them."""
    at = rng.randrange(len(plan.residencies))
    stay = plan.residencies[at]
    offset = stay.offset + rng.choice((-8, -1, 1, 8)) * ALIGNMENT
    if not 0 <= offset <= plan.memory.slab_bytes - stay.bytes:
        return None
    return replace(plan, residencies=_with(plan.residencies, at, replace(stay, offset=offset)))


def exchange_places(plan: Plan, rng: random.Random) -> Plan | None:
    """Of two residencies of one size, at best ones that end together."""
    at = rng.randrange(len(plan.residencies))
    stay = plan.residencies[at]
    others = [i for i, s in enumerate(plan.residencies) if s.bytes == stay.bytes and s.offset != stay.offset]
    if not others:
        return None
    to = rng.choice([i for i in others if plan.residencies[i].end == stay.end] or others)
    moved = _with(plan.residencies, at, replace(stay, offset=plan.residencies[to].offset))
    return replace(plan, residencies=_with(moved, to, replace(plan.residencies[to], offset=stay.offset)))


MUTATIONS = [
    drop_run_wait, drop_copy_wait, start_copy_early, move_residency, swap_runs, repeat_run, move_host_slot,
    retarget_copy, shift_lifetime, flip_initial, move_scratch, grow_scratch, shift_scratch, move_a_little,
    exchange_places,
]  # fmt: skip
NETWORKS = [networks.cnn, branches]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("mutate", MUTATIONS)
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6))
def test_an_altered_plan_is_rejected_or_harmless(mutate, network, seed: int) -> None:
    imported = network()
    altered = mutate(random_plan(imported, seed % 40, seed % 2 == 0), random.Random(seed))
    if altered is None or verify(imported.graph, altered):
        return
    assert judge(imported.graph, altered, range(20)) is None


@pytest.mark.parametrize(
    ("mutate", "network"),
    [(m, n) for m in MUTATIONS for n in NETWORKS if (m, n) != (shift_scratch, branches)],  # its segments share a region
)
def test_the_verifier_does_reject_such_alterations(mutate, network) -> None:
    imported = network()
    rejected = 0
    for seed in range(40):
        altered = mutate(random_plan(imported, seed, seed % 2 == 0), random.Random(seed))
        rejected += bool(altered is not None and verify(imported.graph, altered))
    assert rejected >= 5


def test_scratch_both_in_the_slab_and_beside_it_or_without_regions_is_rejected() -> None:
    imported = networks.cnn()
    plan = random_plan(imported, 4, scratch_in_slab=True)
    assert plan.scratch
    beside = replace(plan.memory, scratch_bytes=ALIGNMENT, budget_bytes=plan.memory.budget_bytes + ALIGNMENT)
    assert [v.kind for v in verify(imported.graph, replace(plan, memory=beside))] == ["scratch"]
    assert [v.kind for v in verify(imported.graph, replace(plan, scratch=plan.scratch[:-1]))] == ["scratch"]
    odd = replace(plan.scratch[0], offset=plan.scratch[0].offset + 1)
    assert verify(imported.graph, replace(plan, scratch=(odd, *plan.scratch[1:])))


@pytest.mark.parametrize("field", ["slab_bytes", "budget_bytes"])
def test_smaller_memory_than_needed_is_rejected(field: str) -> None:
    imported = networks.cnn()
    plan = random_plan(imported, 3, scratch_in_slab=True)
    memory = replace(plan.memory, **{field: getattr(plan.memory, field) - ALIGNMENT})
    assert verify(imported.graph, replace(plan, memory=memory))


def test_a_short_residency_is_rejected() -> None:
    imported = networks.cnn()
    plan = random_plan(imported, 3, scratch_in_slab=True)
    for at, stay in enumerate(plan.residencies):
        if stay.bytes > ALIGNMENT:
            short = replace(stay, bytes=stay.bytes - ALIGNMENT)
            assert verify(imported.graph, replace(plan, residencies=_with(plan.residencies, at, short)))


def test_a_segment_in_two_forms_or_in_one_without_a_proper_name_is_rejected() -> None:
    imported = networks.cnn()
    plan = random_plan(imported, 4)
    first, end = max(plan.segments, key=lambda segment: segment[1] - segment[0])
    assert end - first > 1
    one = _with(plan.runs, first, replace(plan.runs[first], form="lean"))
    assert [v.kind for v in verify(imported.graph, replace(plan, runs=one))] == ["form"]
    whole = tuple(replace(run, form="lean") if first <= i < end else run for i, run in enumerate(plan.runs))
    assert not verify(imported.graph, replace(plan, runs=whole))
    odd = tuple(replace(run, form="../lean") if first <= i < end else run for i, run in enumerate(plan.runs))
    assert [v.kind for v in verify(imported.graph, replace(plan, runs=odd))] == ["form"]
