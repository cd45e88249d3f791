"""The verifier accepts what the executor queues, and nothing else: order of copies, given values, slots of the host."""

import random
from dataclasses import dataclass

import msgspec
import pytest
from support.brute_force import brute_force
from support.plans import random_plan
from support.tiny import GRAPHS

from planc.graph.graph import Graph, Role
from planc.plan.plan import Copy, Direction, HostSlot, Plan
from planc.units import HOST_ALIGNMENT
from planc.verifier.verify import verify

replace = msgspec.structs.replace


@dataclass(frozen=True)
class _Case:
    graph: Graph
    plan: Plan


def cases() -> list[_Case]:
    found = []
    for build in GRAPHS:
        graph = build().graph
        found += [_Case(graph, random_plan(build(), seed, bool(seed % 2))) for seed in range(30)]
    return found


def kinds(graph: Graph, plan: Plan) -> set[str]:
    return {violation.kind for violation in verify(graph, plan)}


def permuted(plan: Plan, order: list[int]) -> Plan:
    """The same plan with its copies listed in another order."""
    new = {old: at for at, old in enumerate(order)}

    def moved(waits: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(new[c] for c in waits)

    copies = tuple(replace(plan.copies[old], waits=moved(plan.copies[old].waits)) for old in order)
    runs = tuple(replace(run, waits=moved(run.waits)) for run in plan.runs)
    times = tuple(plan.prediction.copies[old] for old in order)
    return replace(plan, copies=copies, runs=runs, prediction=replace(plan.prediction, copies=times))


def test_copies_of_a_direction_in_another_order_than_their_boundaries_are_refused() -> None:
    refused = 0
    for case in cases():
        order = list(range(len(case.plan.copies)))
        random.Random(len(order)).shuffle(order)
        plan = permuted(case.plan, order)
        sorted_still = all(
            [c.after for c in plan.copies if c.direction is d]
            == sorted(c.after for c in plan.copies if c.direction is d)
            for d in Direction
        )
        assert sorted_still or "order" in kinds(case.graph, plan)
        refused += not sorted_still
    assert refused > 20


def test_a_wait_for_a_copy_that_is_queued_later_is_refused() -> None:
    refused = 0
    for case in cases():
        for index, copy in enumerate(case.plan.copies):
            late = [i for i, c in enumerate(case.plan.copies) if c.after > copy.after and c.direction != copy.direction]
            if late:
                waiting = replace(copy, waits=(*copy.waits, late[0]))
                copies = (*case.plan.copies[:index], waiting, *case.plan.copies[index + 1 :])
                plan = replace(case.plan, copies=copies)
                assert brute_force(case.graph, plan) is not None
                assert "order" in kinds(case.graph, plan)
                refused += 1
    assert refused > 20


def test_what_is_there_when_the_step_begins_cannot_be_brought_in_too() -> None:
    """A batch input lies at slot 0 and is copied there as well: it would be written over what else is there."""
    refused = 0
    for case in cases():
        roles = {storage.name: storage for storage in case.graph.storages}
        for index, stay in enumerate(case.plan.residencies):
            known = {slot.storage for slot in case.plan.host_slots}
            if roles[stay.storage].role is not Role.BATCH or stay.begin or stay.storage in known:
                continue
            size = case.plan.memory.host_bytes
            slot = HostSlot(storage=stay.storage, offset=size, bytes=stay.bytes, initial=False)
            memory = replace(case.plan.memory, host_bytes=size + HOST_ALIGNMENT)
            copy = Copy(direction=Direction.IN, residency=index, host_offset=size, bytes=stay.bytes, after=0)
            runs = (replace(case.plan.runs[0], waits=(*(w + 1 for w in case.plan.runs[0].waits), 0)), *(
                replace(run, waits=tuple(w + 1 for w in run.waits)) for run in case.plan.runs[1:]
            ))  # fmt: skip
            copies = (copy, *(replace(c, waits=tuple(w + 1 for w in c.waits)) for c in case.plan.copies))
            slots = (*case.plan.host_slots, slot)
            plan = replace(case.plan, memory=memory, runs=runs, copies=copies, host_slots=slots)
            assert "written twice" in kinds(case.graph, plan)
            refused += 1
    assert refused > 20


@pytest.mark.parametrize("shift", [-4096, -64, 64, 2048])
def test_a_slot_off_its_block_or_over_another_is_refused(shift: int) -> None:
    refused = 0
    for case in cases():
        for index, slot in enumerate(case.plan.host_slots):
            moved = replace(slot, offset=slot.offset + shift)
            copies = tuple(
                replace(c, host_offset=c.host_offset + shift) if c.host_offset == slot.offset else c
                for c in case.plan.copies
            )
            slots = (*case.plan.host_slots[:index], moved, *case.plan.host_slots[index + 1 :])
            found = kinds(case.graph, replace(case.plan, host_slots=slots, copies=copies))
            assert found & {"alignment", "host overlap", "size"}
            refused += 1
    assert refused > 20


def test_two_slots_of_one_storage_are_refused() -> None:
    for case in (case for case in cases() if case.plan.host_slots):
        size = case.plan.memory.host_bytes
        again = replace(case.plan.host_slots[0], offset=size)
        memory = replace(case.plan.memory, host_bytes=size + HOST_ALIGNMENT)
        plan = replace(case.plan, host_slots=(*case.plan.host_slots, again), memory=memory)
        assert "ambiguous" in kinds(case.graph, plan)
