"""Schedule → residencies of storages in op slots, made exact to the operator, temporaries added."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from planc.graph.footprint import padded_bytes, write_over_candidates
from planc.graph.graph import Graph, Role
from planc.planning.build import PlanningProblem
from planc.schedule.residency import ValueResidency, residencies
from planc.schedule.schedule import Schedule


@dataclass(slots=True)
class SlotResidency:
    """One residency of `storage` in the slab on the slots [`begin`, `end`).

    `copied_in` and `copied_out` index the schedule's copies. `home` marks state and constants that are there from step
    to step. `over` is the residency whose bytes this one takes in place at its first slot. `inside` is the residency
    of a Concat's output that takes the bytes of this one, an input of it, in place, and this one's first byte there.
    """

    storage: int
    begin: int
    end: int
    copied_in: int | None = None
    copied_out: tuple[int, ...] = ()
    home: bool = False
    over: int | None = None
    inside: tuple[int, int] | None = None


@dataclass(frozen=True)
class SlotMap:
    """Slots of a schedule's steps: step s covers [`begin[s]`, `begin[s + 1]`)."""

    graph: Graph
    steps: tuple[int, ...]
    begin: tuple[int, ...]

    @property
    def total(self) -> int:
        """Number of slots of the whole step."""
        return self.begin[-1]

    def touches(self, step: int) -> dict[int, tuple[int, int]]:
        """For each storage that the step's layer touches, its first and last slot there."""
        layer, reads, writes = self.graph.layers[self.steps[step]], self.graph.op_reads, self.graph.op_writes
        found: dict[int, tuple[int, int]] = {}
        for slot, op in enumerate(range(layer.start, layer.stop), self.begin[step]):
            for storage in (*reads[op], *writes[op]):
                found[storage] = (found[storage][0], slot) if storage in found else (slot, slot)
        return found

    def touches_of(self, step: int, storage: int) -> tuple[int, int]:
        """The first and last slot in which the step's layer touches `storage`."""
        layer, reads, writes = self.graph.layers[self.steps[step]], self.graph.op_reads, self.graph.op_writes
        ops = [op for op in range(layer.start, layer.stop) if storage in reads[op] or storage in writes[op]]
        return self.begin[step] + ops[0] - layer.start, self.begin[step] + ops[-1] - layer.start


def slot_map(graph: Graph, steps: Sequence[int]) -> SlotMap:
    """Slots of the executed layers `steps`."""
    begin = [0]
    for layer in steps:
        begin.append(begin[-1] + graph.layers[layer].stop - graph.layers[layer].start)
    return SlotMap(graph, tuple(steps), tuple(begin))


@dataclass
class _SlotResidencies:
    slots: SlotMap
    planning: PlanningProblem
    schedule: Schedule
    found: list[SlotResidency] = field(default_factory=list)

    def across_layers(self, residency: ValueResidency) -> SlotResidency:
        storage = self.planning.storages[residency.value]
        copies = self.schedule.copies
        begin = self.slots.begin[residency.first]
        ends = [self.slots.begin[copies[c].stop] for c in residency.copied_out_by]
        if residency.produced_by_step is not None:
            begin, last = self.slots.touches_of(residency.produced_by_step, storage)
            ends.append(last + 1)
        if residency.produced_by_copy is not None:
            ends.append(self.slots.begin[copies[residency.produced_by_copy].stop])
        if residency.last_reader is not None:
            ends.append(self.slots.touches_of(residency.last_reader, storage)[1] + 1)
        if residency.until_step_end:
            ends.append(self.slots.total)
        return SlotResidency(
            storage,
            begin,
            max([begin + 1, *ends]),
            residency.produced_by_copy,
            residency.copied_out_by,
            home=self._is_home(storage, residency),
        )

    def _is_home(self, storage: int, residency: ValueResidency) -> bool:
        carried = self.slots.graph.storages[storage].role in (Role.STATE, Role.CONSTANT)
        starts = residency.produced_by_step is None and residency.produced_by_copy is None
        return carried and (starts or residency.until_step_end)

    def temporaries(self) -> None:
        """Stays of what a layer makes and does not leave behind; also of outputs nobody reads any more."""
        known = {(s.storage, s.begin) for s in self.found}
        for step in range(len(self.slots.steps)):
            layer = self.slots.graph.layers[self.slots.steps[step]]
            made = {s for op in range(layer.start, layer.stop) for s in self.slots.graph.op_writes[op]}
            for storage, (first, last) in self.slots.touches(step).items():
                if storage in made and self._produced(storage) and (storage, first) not in known:
                    self.found.append(SlotResidency(storage, first, last + 1))

    def _produced(self, storage: int) -> bool:
        return self.slots.graph.storages[storage].role is Role.COMPUTED


def residencies_of(slots: SlotMap, planning: PlanningProblem, schedule: Schedule) -> list[SlotResidency]:
    """Every residency of a schedule, in-place reuse marked, ordered by first slot."""
    work = _SlotResidencies(slots, planning, schedule)
    work.found = [work.across_layers(r) for r in residencies(planning.problem, schedule)]
    work.temporaries()
    work.found.sort(key=lambda s: (s.begin, s.storage))
    _mark_in_place(slots, work.found)
    return work.found


def _mark_in_place(slots: SlotMap, residencies: list[SlotResidency]) -> None:
    """Set `over` on every residency that may take the bytes of another whose last use is the operator that makes it."""
    graph = slots.graph
    ending: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for index, residency in enumerate(residencies):
        ending[residency.storage, residency.end].append(index)
    op_at = [op for step in slots.steps for op in range(graph.layers[step].start, graph.layers[step].stop)]
    taken: set[int] = set()
    for residency in residencies:
        if residency.copied_in is not None or graph.storages[residency.storage].role is not Role.COMPUTED:
            continue
        op = op_at[residency.begin]
        if graph.tensors[graph.ops[op].outputs[0]].storage != residency.storage:
            continue
        for storage in write_over_candidates(graph, op):
            ends = (
                i
                for i in ending[storage, residency.begin + 1]
                if i not in taken and may_be_overwritten(slots, residencies[i])
            )
            over = next(ends, None)
            if over is not None and padded_bytes(graph, storage) == padded_bytes(graph, residency.storage):
                residency.over = over
                taken.add(over)
                break


def may_be_overwritten(slots: SlotMap, residency: SlotResidency) -> bool:
    """Not state or constants, nothing that a copy out may still be reading when the operator runs, and no output that
    the step leaves there."""
    if residency.end == slots.total and residency.storage in slots.graph.output_storages:
        return False
    return slots.graph.storages[residency.storage].role in (Role.COMPUTED, Role.BATCH) and not residency.copied_out
