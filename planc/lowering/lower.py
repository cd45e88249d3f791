"""Schedule → the plan's runs, segments, copies, residencies and host slots; packs the stays on the way."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from planc.graph.footprint import ALIGNMENT, padded_bytes
from planc.graph.graph import Graph
from planc.lowering.segments import Segment, segments_of
from planc.lowering.stays import SlotMap, Stay, slot_map, stays_of
from planc.placement.packing import Buffer, Packing, pack
from planc.plan import plan as p
from planc.problem.build import PlanningProblem
from planc.schedule.schedule import Direction, Schedule
from planc.schedule.simulate import copy_dependencies
from planc.units import align_up


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


HOST_ALIGNMENT = 4096
"""Host slots start at multiples of this: the block size that direct file access wants."""


def lower(
    graph: Graph, planning: PlanningProblem, schedule: Schedule, capacity: int | None = None, time_limit_s: float = 10.0
) -> Lowered:
    """Make `schedule` executable. The slab is packed to at most `capacity` bytes where possible, else as low as found.

    The caller compares `slab_bytes` with what it can afford.
    """
    slots = slot_map(graph, schedule.steps)
    stays = stays_of(slots, planning, schedule)
    segments = segments_of(slots, planning, schedule, stays)
    packing, offsets, regions = _place(slots, stays, segments, capacity, time_limit_s)
    host_slots, host_offset = _host_slots(graph, planning, schedule)
    return Lowered(
        runs=_runs(schedule, segments),
        segments=tuple((s.first, s.end) for s in segments),
        copies=_copies(planning, schedule, stays, host_offset),
        residencies=tuple(
            p.Residency(graph.storages[s.storage].name, offset, padded_bytes(graph, s.storage), s.begin, s.end)
            for s, offset in zip(stays, offsets, strict=True)
        ),
        host_slots=host_slots,
        slab_bytes=packing.height,
        load_bytes=packing.lower_bound,
        host_bytes=sum(align_up(slot.bytes, HOST_ALIGNMENT) for slot in host_slots),
        scratch=regions if planning.layer_scratch else (),
    )


def _place(
    slots: SlotMap, stays: Sequence[Stay], segments: Sequence[Segment], capacity: int | None, time_limit_s: float
) -> tuple[Packing, list[int], tuple[p.Region, ...]]:
    """Pack blocks and scratch: a block is a chain of in-place stays, or the stays of one carried storage, which share an
    address. Offsets of the stays and regions of the segments, in order."""
    graph = slots.graph
    blocks: defaultdict[int, list[int]] = defaultdict(list)
    head: dict[int, int] = {}
    homes: dict[int, int] = {}
    for index, stay in enumerate(stays):
        if stay.over is not None:
            head[index] = head[stay.over]
        elif stay.home:
            head[index] = homes.setdefault(stay.storage, index)
        else:
            head[index] = index
        blocks[head[index]].append(index)
    buffers = [
        Buffer(
            id=f"{graph.storages[stays[first].storage].name}@{stays[first].begin}",
            size=padded_bytes(graph, stays[first].storage),
            lifetimes=_union((stays[i].begin, stays[i].end) for i in members),
            alignment=ALIGNMENT,
        )
        for first, members in blocks.items()
    ]
    scratch = [
        Buffer(f"scratch@{s.first}", s.scratch, ((slots.begin[s.first], slots.begin[s.end]),), ALIGNMENT)
        for s in segments
    ]
    packing = pack([*buffers, *scratch], capacity=capacity, time_limit=time_limit_s)
    offset = dict(zip(blocks, packing.offsets, strict=False))
    places = zip(packing.offsets[len(blocks) :], segments, strict=True)
    regions = tuple(p.Region(at if s.scratch else 0, s.scratch) for at, s in places)
    return packing, [offset[head[index]] for index in range(len(stays))], regions


def _union(spans: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """The spans sorted, with touching and overlapping ones joined."""
    joined: list[tuple[int, int]] = []
    for begin, end in sorted(spans):
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((begin, end))
    return tuple(joined)


def _runs(schedule: Schedule, segments: Sequence[Segment]) -> tuple[p.Run, ...]:
    waits: defaultdict[int, list[int]] = defaultdict(list)
    for index, copy in enumerate(schedule.copies):
        waits[copy.stop].append(index)
    forms = [segment.form for segment in segments for _ in range(segment.first, segment.end)]
    return tuple(p.Run(layer, tuple(waits[i]), forms[i]) for i, layer in enumerate(schedule.steps))


def _copies(
    planning: PlanningProblem, schedule: Schedule, stays: Sequence[Stay], host_offset: dict[int, int]
) -> tuple[p.Copy, ...]:
    stay_of: dict[int, int] = {}
    for index, stay in enumerate(stays):
        if stay.copied_in is not None:
            stay_of[stay.copied_in] = index
        for copy in stay.copied_out:
            stay_of[copy] = index
    needs = copy_dependencies(planning.problem, schedule)
    return tuple(
        p.Copy(
            direction=p.Direction.OUT if copy.direction is Direction.OUT else p.Direction.IN,
            residency=stay_of[index],
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
    on_host = sorted({copy.value for copy in schedule.copies} | schedule.host_start)
    slots, offset = [], {}
    at = 0
    for value in on_host:
        size = planning.problem.values[value].bytes
        name = graph.storages[planning.storages[value]].name
        slots.append(p.HostSlot(storage=name, offset=at, bytes=size, initial=value in schedule.host_start))
        offset[value] = at
        at += align_up(size, HOST_ALIGNMENT)
    return tuple(slots), offset
