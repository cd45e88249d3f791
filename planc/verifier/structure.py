"""Checks of a plan that need no notion of time: indices, sizes, sums, every layer run, the right model."""

import re
from collections import Counter
from collections.abc import Iterator

from planc.enums import Direction
from planc.graph.graph import Graph, Role, input_roles
from planc.plan.plan import Plan
from planc.units import ALIGNMENT, HOST_ALIGNMENT, align_up
from planc.verifier.operators import is_repeatable
from planc.verifier.violation import Violation

_FORM = re.compile(r"[A-Za-z0-9_]{0,40}", re.ASCII)


def check_structure(graph: Graph, plan: Plan) -> Iterator[Violation]:
    """Violations of form. Where there is one, the checks of time and content would be meaningless."""
    if plan.model.hash != graph.content_hash:
        text = f"the plan was made for model {plan.model.hash[:12]}, this one is {graph.content_hash[:12]}"
        yield Violation("wrong model", plan.model.file, text)
        return
    yield from _labels(graph, plan)
    yield from _memory(plan)
    yield from _runs(graph, plan)
    yield from _segments(plan)
    yield from _scratch(plan)
    yield from _residencies(graph, plan)
    yield from _host_slots(graph, plan)
    yield from _copies(graph, plan)
    yield from _queueing(plan)


def _labels(graph: Graph, plan: Plan) -> Iterator[Violation]:
    """What people read in the plan is true. A plan without labels is valid too."""
    layers = [(layer.name, layer.kind, layer.phase, layer.stop - layer.start) for layer in graph.layers]
    if plan.layers and [(x.name, x.kind, x.phase, x.operators) for x in plan.layers] != layers:
        yield Violation("labels", "layers", "they are not the layers of the model")
    if plan.inputs and plan.inputs != input_roles(graph):
        yield Violation("labels", "inputs", "they are not the inputs and constants of the model")


def _memory(plan: Plan) -> Iterator[Violation]:
    memory = plan.memory
    total = memory.slab_bytes + memory.scratch_bytes + memory.session_bytes
    if total > memory.budget_bytes:
        text = f"slab, scratch and sessions take {total} bytes, the budget is {memory.budget_bytes}"
        yield Violation("over budget", "memory", text)
    if memory.host_limit_bytes is not None and memory.host_bytes > memory.host_limit_bytes:
        text = f"the host slab takes {memory.host_bytes} bytes, the limit is {memory.host_limit_bytes}"
        yield Violation("over host limit", "memory", text)
    for name in ("slab_bytes", "scratch_bytes", "session_bytes", "host_bytes"):
        if getattr(memory, name) < 0:
            yield Violation("size", "memory", f"{name} is negative")


def _runs(graph: Graph, plan: Plan) -> Iterator[Violation]:
    known = range(len(graph.layers))
    counts = Counter(run.layer for run in plan.runs)
    for position, run in enumerate(plan.runs):
        if run.layer not in known or any(not 0 <= c < len(plan.copies) for c in run.waits):
            yield Violation("index", f"run {position}", "its layer or one of its waits does not exist")
    for layer in known:
        if counts[layer] == 0:
            yield Violation("missing layer", graph.layers[layer].title, "the plan never runs it")
        elif counts[layer] > 1 and not is_repeatable(graph, graph.layers[layer]):
            text = f"it runs {counts[layer]} times, but it is random, updates state, or is not a forward layer"
            yield Violation("repeated layer", graph.layers[layer].title, text)


def _segments(plan: Plan) -> Iterator[Violation]:
    firsts = [first for first, _ in plan.segments]
    ends = [end for _, end in plan.segments]
    if (
        firsts[:1] != [0]
        or ends[-1:] != [len(plan.runs)]
        or firsts[1:] != ends[:-1]
        or any(a >= b for a, b in plan.segments)
    ):
        yield Violation("segments", "segments", "they do not divide the runs into consecutive ranges")
        return
    for first, end in plan.segments:
        forms = {run.form for run in plan.runs[first:end]}
        if len(forms) > 1 or not all(_FORM.fullmatch(form) for form in forms):
            text = f"forms {sorted(forms)}: expected one form for all its runs, of up to 40 letters, digits and _"
            yield Violation("form", f"segment of runs [{first}, {end})", text)
    boundaries = {0, *ends}
    for position, run in enumerate(plan.runs):
        if run.waits and position not in boundaries:
            yield Violation("segments", f"run {position}", "it waits for a copy in the middle of a segment")
    for index, copy in enumerate(plan.copies):
        if copy.after not in boundaries:
            yield Violation(
                "segments", f"copy {index}", f"it starts after run {copy.after}, in the middle of a segment"
            )


def _scratch(plan: Plan) -> Iterator[Violation]:
    """Every segment has its region, or none has."""
    if plan.scratch and len(plan.scratch) != len(plan.segments):
        text = f"{len(plan.scratch)} regions for {len(plan.segments)} segments"
        yield Violation("scratch", "scratch", text)
    if plan.scratch and plan.memory.scratch_bytes:
        yield Violation("scratch", "memory", "scratch lies both in the slab and beside it")
    for index, region in enumerate(plan.scratch):
        if region.bytes < 0 or region.offset < 0 or region.offset + region.bytes > plan.memory.slab_bytes:
            text = f"[{region.offset}, {region.offset + region.bytes}) of {plan.memory.slab_bytes}"
            yield Violation("outside slab", f"scratch of segment {index}", text)
        if region.offset % ALIGNMENT:
            text = f"offset {region.offset} is no multiple of {ALIGNMENT}"
            yield Violation("alignment", f"scratch of segment {index}", text)


def _residencies(graph: Graph, plan: Plan) -> Iterator[Violation]:
    sizes = {storage.name: storage.nbytes for storage in graph.storages}
    for index, residency in enumerate(plan.residencies):
        where = f"residency {index} of {residency.storage!r}"
        if residency.storage not in sizes:
            yield Violation("unknown storage", where, "the model has no such tensor")
        elif residency.bytes < sizes[residency.storage]:
            yield Violation(
                "size", where, f"it has {residency.bytes} bytes, the tensor needs {sizes[residency.storage]}"
            )
        if residency.offset < 0 or residency.offset + residency.bytes > plan.memory.slab_bytes:
            yield Violation(
                "outside slab",
                where,
                f"[{residency.offset}, {residency.offset + residency.bytes}) of {plan.memory.slab_bytes}",
            )
        if residency.offset % ALIGNMENT:
            yield Violation("alignment", where, f"offset {residency.offset} is no multiple of {ALIGNMENT}")
        if not 0 <= residency.begin < residency.end:
            yield Violation("lifetime", where, f"[{residency.begin}, {residency.end}) is empty or negative")


def _host_slots(graph: Graph, plan: Plan) -> Iterator[Violation]:
    roles = {storage.name: storage for storage in graph.storages}
    at, previous = 0, ""
    names = Counter(slot.storage for slot in plan.host_slots)
    for slot in sorted(plan.host_slots, key=lambda s: s.offset):
        where = f"host slot of {slot.storage!r}"
        if slot.storage not in roles:
            yield Violation("unknown storage", where, "the model has no such tensor")
            continue
        if slot.offset < at:
            yield Violation("host overlap", where, f"it begins at {slot.offset}, inside that of {previous!r}")
        end = align_up(slot.offset + slot.bytes, HOST_ALIGNMENT)
        if names[slot.storage] > 1:
            yield Violation("ambiguous", where, "it has several")
        if slot.bytes < roles[slot.storage].nbytes or slot.offset < 0 or end > plan.memory.host_bytes:
            yield Violation("size", where, f"{slot.bytes} bytes at {slot.offset} do not hold it inside the host slab")
        if slot.offset % HOST_ALIGNMENT:
            yield Violation("alignment", where, f"offset {slot.offset} is no multiple of {HOST_ALIGNMENT}")
        if slot.initial and roles[slot.storage].role is Role.COMPUTED:
            yield Violation("host slot", where, "a computed tensor cannot be on the host before the step")
        at, previous = end, slot.storage


def _copies(graph: Graph, plan: Plan) -> Iterator[Violation]:
    sizes = {storage.name: storage.nbytes for storage in graph.storages}
    slots = {slot.storage: slot for slot in plan.host_slots}
    for index, copy in enumerate(plan.copies):
        where = f"copy {index}"
        if not 0 <= copy.residency < len(plan.residencies) or not 0 <= copy.after <= len(plan.runs):
            yield Violation("index", where, "its residency or its start does not exist")
            continue
        if any(not 0 <= c < len(plan.copies) for c in copy.waits):
            yield Violation("index", where, "one of its waits does not exist")
        residency = plan.residencies[copy.residency]
        slot = slots.get(residency.storage)
        if slot is None or copy.host_offset != slot.offset or copy.bytes > slot.bytes:
            yield Violation(
                "host slot",
                where,
                f"{residency.storage!r} has no host slot at {copy.host_offset} of {copy.bytes} bytes",
            )
        if copy.bytes > residency.bytes or copy.bytes < sizes.get(residency.storage, 0):
            yield Violation(
                "size", where, f"it moves {copy.bytes} bytes of {residency.storage!r}, which has {residency.bytes}"
            )


def _queueing(plan: Plan) -> Iterator[Violation]:
    """Copies are queued boundary by boundary, each direction in list order, and wait for what is queued by then."""
    last = dict.fromkeys(Direction, (0, -1))
    for index, copy in enumerate(plan.copies):
        after, before = last[copy.direction]
        if copy.after < after:
            text = f"it starts after run {copy.after}, but copy {before}, before it in its direction, after run {after}"
            yield Violation("order", f"copy {index}", text)
        last[copy.direction] = (copy.after, index)
        for other in copy.waits:
            if other in range(len(plan.copies)) and plan.copies[other].after > copy.after:
                text = f"it waits for copy {other}, which is queued later, after run {plan.copies[other].after}"
                yield Violation("order", f"copy {index}", text)
