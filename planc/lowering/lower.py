"""Schedule → the plan's runs, segments, copies, residencies and host slots; packs the residencies on the way."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from planc.clock import WALL, StoppableClock
from planc.graph.footprint import padded_bytes
from planc.graph.graph import Graph
from planc.lowering.blocks import Blocks
from planc.lowering.placed_concats import mark_inside
from planc.lowering.residencies import SlotMap, SlotResidency, residencies_of, slot_map
from planc.lowering.segments import Segment, scratch_of, segments_of
from planc.packing.buffers import Buffer, Packing
from planc.packing.pack import pack
from planc.plan import plan as p
from planc.planning.build import PlanningProblem, exchanged_bytes
from planc.schedule.residency import host_bytes, host_values
from planc.schedule.schedule import Schedule
from planc.schedule.simulate import copy_dependencies, exchanges
from planc.units import ALIGNMENT


@dataclass(frozen=True)
class Lowered:
    """The executable part of a plan. `load_bytes` is the proven lower bound of the slab for these lifetimes.

    `scratch` has a region for each segment where scratch is placed in the slab, else it is empty.
    """

    runs: tuple[p.Run, ...]
    segments: tuple[tuple[int, int], ...]
    copies: tuple[p.Copy, ...]
    residencies: tuple[p.Residency, ...]
    host_slots: tuple[p.HostSlot, ...]
    slab_bytes: int
    load_bytes: int
    host_bytes: int
    scratch: tuple[p.Region, ...] = ()
    exchanges: tuple[p.Exchange, ...] = ()


@dataclass(frozen=True)
class Lowering:
    """A schedule with its residencies and segments, which have no addresses yet: it is packed as often as wanted, and
    lowered once."""

    planning: PlanningProblem
    schedule: Schedule
    slots: SlotMap
    residencies: Sequence[SlotResidency]
    segments: Sequence[Segment]

    @classmethod
    def of(cls, graph: Graph, planning: PlanningProblem, schedule: Schedule, inside: bool = True) -> "Lowering":
        """The residencies and segments of `schedule`; with `inside`, inputs of Concats lie in the outputs where load
        allows."""
        slots = slot_map(graph, schedule.steps)
        residencies = residencies_of(slots, planning, schedule)
        if inside:
            mark_inside(slots, residencies, [scratch_of(planning, schedule, run) for run in range(len(schedule.steps))])
        return cls(planning, schedule, slots, residencies, segments_of(slots, planning, schedule, residencies))

    @cached_property
    def _blocks(self) -> Blocks:
        return Blocks(self.slots.graph, self.residencies)

    @property
    def has_inside(self) -> bool:
        """Whether some Concat's inputs lie in its output."""
        return any(residency.inside is not None for residency in self.residencies)

    @cached_property
    def buffers(self) -> tuple[Buffer, ...]:
        """What has to be packed: the blocks in order of their first residencies, then the scratch of every segment."""
        graph, residencies, begin = self.slots.graph, self.residencies, self.slots.begin
        blocks = (
            Buffer(
                id=f"{graph.storages[residencies[first].storage].name}@{residencies[first].begin}",
                size=self._blocks.size(first),
                lifetimes=self._blocks.lifetimes(first),
                alignment=ALIGNMENT,
            )
            for first in self._blocks.members
        )
        scratch = (Buffer(f"scratch@{s.first}", s.scratch, ((begin[s.first], begin[s.end]),), ALIGNMENT)
                   for s in self.segments)  # fmt: skip
        return (*blocks, *scratch)

    def pack(
        self,
        capacity: int | None = None,
        time_limit_s: float = 10.0,
        known: Packing | None = None,
        clock: StoppableClock = WALL,
    ) -> Packing:
        """Addresses of the buffers, at most `capacity` bytes high where possible, else as low as found; from those
        `known` where there are some."""
        return pack(self.buffers, capacity=capacity, time_limit=time_limit_s, known=known, clock=clock)

    def lowered(self, packing: Packing) -> Lowered:
        """The executable part of the plan, with the addresses of `packing`."""
        graph, blocks = self.slots.graph, self._blocks.members
        at = dict(zip(blocks, packing.offsets, strict=False))
        regions = zip(packing.offsets[len(blocks) :], self.segments, strict=True)
        host_slots, host_offset = _host_slots(graph, self.planning, self.schedule)
        return Lowered(
            runs=_runs(self.schedule, self.segments),
            segments=tuple((s.first, s.end) for s in self.segments),
            copies=_copies(self.planning, self.schedule, self.residencies, host_offset),
            residencies=tuple(
                p.Residency(
                    graph.storages[s.storage].name, at[head] + o, padded_bytes(graph, s.storage), s.begin, s.end
                )
                for s, head, o in zip(self.residencies, self._blocks.heads, self._blocks.offsets, strict=True)
            ),
            host_slots=host_slots,
            slab_bytes=packing.height,
            load_bytes=packing.lower_bound,
            host_bytes=host_bytes(self.planning.problem, self.schedule),
            scratch=tuple(p.Region(offset if s.scratch else 0, s.scratch) for offset, s in regions)
            if self.planning.layer_scratch
            else (),
            exchanges=_exchanges(graph, self.planning, self.schedule),
        )


def lower(
    graph: Graph, planning: PlanningProblem, schedule: Schedule, capacity: int | None = None, time_limit_s: float = 10.0
) -> Lowered:
    """Make `schedule` executable. The slab is packed to at most `capacity` bytes where possible, else as low as found.

    The caller compares `slab_bytes` with what it can afford.
    """
    lowering = Lowering.of(graph, planning, schedule)
    return lowering.lowered(lowering.pack(capacity, time_limit_s))


def _runs(schedule: Schedule, segments: Sequence[Segment]) -> tuple[p.Run, ...]:
    waits: defaultdict[int, list[int]] = defaultdict(list)
    for index, copy in enumerate(schedule.copies):
        waits[copy.stop].append(index)
    forms = [segment.form for segment in segments for _ in range(segment.first, segment.end)]
    return tuple(p.Run(layer, tuple(waits[i]), forms[i]) for i, layer in enumerate(schedule.steps))


def _exchanges(graph: Graph, planning: PlanningProblem, schedule: Schedule) -> tuple[p.Exchange, ...]:
    return tuple(
        p.Exchange(
            run=run,
            after=after,
            bytes=exchanged_bytes(graph, layer),
            tensors=tuple(graph.tensors[graph.ops[op].outputs[0]].name for op in range(layer.start, layer.stop)),
            kind=kind,
            roots=roots,
        )
        for after, run in exchanges(planning.problem, schedule)
        for layer in (graph.layers[schedule.steps[run]],)
        for kind, roots in (graph.exchange(schedule.steps[run]),)
    )


def _copies(
    planning: PlanningProblem, schedule: Schedule, residencies: Sequence[SlotResidency], host_offset: dict[int, int]
) -> tuple[p.Copy, ...]:
    residency_of: dict[int, int] = {}
    for index, residency in enumerate(residencies):
        if residency.copied_in is not None:
            residency_of[residency.copied_in] = index
        for copy in residency.copied_out:
            residency_of[copy] = index
    needs = copy_dependencies(planning.problem, schedule)
    return tuple(
        p.Copy(
            direction=copy.direction,
            residency=residency_of[index],
            host_offset=host_offset[copy.value],
            bytes=planning.problem.values[copy.value].bytes,
            after=copy.start,
            waits=needs[index],
        )
        for index, copy in enumerate(schedule.copies)
    )


def _host_slots(
    graph: Graph, planning: PlanningProblem, schedule: Schedule
) -> tuple[tuple[p.HostSlot, ...], dict[int, int]]:
    """A slot of its own for every value that is ever on the host."""
    slots, offset = [], {}
    at = 0
    for value in sorted(host_values(schedule)):
        size = planning.problem.values[value].bytes
        name = graph.storages[planning.storages[value]].name
        slots.append(p.HostSlot(storage=name, offset=at, bytes=size, initial=value in schedule.host_start))
        offset[value] = at
        at += planning.problem.host_bytes(value)
    return tuple(slots), offset
