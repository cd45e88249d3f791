"""An independent judge of plans: executes them symbolically under random interleavings of the three engines.

Memory is an array of 256-byte blocks that hold labels; an operator reads the labels of its inputs and writes fresh ones
that name what was computed from what. Copies take time: they read at their start and again at their end, and any write
in between is a race. A plan that the verifier accepts must compute the same labels as the unplanned graph under every
interleaving. The judge shares no code with the verifier.
"""

import random
from dataclasses import dataclass

from planc.graph.graph import Graph, Role, Tensor
from planc.plan.plan import Plan

BLOCK = 256
Label = tuple[object, ...]


class Race(Exception):
    """The plan lets an engine read what another has not finished writing."""


@dataclass
class _Flight:
    copy: int
    seen: list[Label]


class Adversary:
    """One execution of a plan; `run` returns the final labels of outputs and state."""

    def __init__(self, graph: Graph, plan: Plan, seed: int) -> None:
        self.graph, self.plan, self.rng = graph, plan, random.Random(seed)
        self.slab: list[Label] = [("junk", i) for i in range(plan.memory.slab_bytes // BLOCK + 1)]
        self.host: list[Label] = [("host junk", i) for i in range(plan.memory.host_bytes // BLOCK + 1)]
        self.runs_done = 0
        self.copies_done: set[int] = set()
        self.flying: dict[str, _Flight] = {}
        self.queues = {d: [i for i, c in enumerate(plan.copies) if c.direction == d] for d in ("out", "in")}
        self.slot = 0
        self._place_inputs()

    def _stays(self, storage: str) -> list[int]:
        found = [i for i, r in enumerate(self.plan.residencies) if r.storage == storage]
        return sorted(found, key=lambda i: self.plan.residencies[i].begin)

    def _place_inputs(self) -> None:
        slots = {slot.storage: slot for slot in self.plan.host_slots}
        for storage in self.graph.storages:
            if storage.role is Role.COMPUTED:
                continue
            slot, stays = slots.get(storage.name), self._stays(storage.name)
            if slot is not None:
                self._fill(self.host, slot.offset, slot.bytes, ("initial", storage.name))
            if stays and self.plan.residencies[stays[0]].begin == 0 and not (slot and slot.initial):
                r = self.plan.residencies[stays[0]]
                self._fill(self.slab, r.offset, r.bytes, ("initial", storage.name))

    def _fill(self, memory: list[Label], offset: int, size: int, label: Label) -> None:
        for i in range(-(-size // BLOCK)):
            memory[offset // BLOCK + i] = label

    def _value(self, memory: list[Label], offset: int, size: int) -> Label:
        labels = {memory[offset // BLOCK + i] for i in range(-(-size // BLOCK))}
        return labels.pop() if len(labels) == 1 else ("mixed",)

    def _at(self, storage: str, slot: int) -> int:
        before = [i for i in self._stays(storage) if self.plan.residencies[i].begin <= slot]
        return before[-1]

    def run(self) -> dict[str, Label]:
        while True:
            choices = [c for c in (*self._startable(), *self._finishable()) if c]
            if self._can_run():
                choices.append(("run", 0))
            if not choices:
                break
            kind, index = self.rng.choice(choices)
            getattr(self, f"_do_{kind}")(index)
        if self.runs_done < len(self.plan.runs) or len(self.copies_done) < len(self.plan.copies):
            raise Race("deadlock")
        return self._results()

    def _startable(self) -> list[tuple[str, int]]:
        found = []
        for direction, queue in self.queues.items():
            if queue and direction not in self.flying:
                copy = self.plan.copies[queue[0]]
                if copy.after <= self.runs_done and set(copy.waits) <= self.copies_done:
                    found.append(("start", queue[0]))
        return found

    def _finishable(self) -> list[tuple[str, int]]:
        return [("finish", flight.copy) for flight in self.flying.values()]

    def _can_run(self) -> bool:
        done = self.runs_done
        return done < len(self.plan.runs) and set(self.plan.runs[done].waits) <= self.copies_done

    def _ends(self, index: int) -> tuple[list[Label], int, list[Label], int]:
        copy = self.plan.copies[index]
        slab_at = self.plan.residencies[copy.residency].offset // BLOCK
        host_at = copy.host_offset // BLOCK
        if copy.direction == "out":
            return self.slab, slab_at, self.host, host_at
        return self.host, host_at, self.slab, slab_at

    def _do_start(self, index: int) -> None:
        copy = self.plan.copies[index]
        source, at, target, to = self._ends(index)
        blocks = -(-copy.bytes // BLOCK)
        self.queues[copy.direction].pop(0)
        self.flying[copy.direction] = _Flight(index, source[at : at + blocks])
        target[to : to + blocks] = [("in flight", index)] * blocks

    def _do_finish(self, index: int) -> None:
        copy = self.plan.copies[index]
        flight = self.flying.pop(copy.direction)
        source, at, target, to = self._ends(index)
        blocks = len(flight.seen)
        if source[at : at + blocks] != flight.seen:
            raise Race(f"the source of copy {index} changed during the copy")
        if target[to : to + blocks] != [("in flight", index)] * blocks:
            raise Race(f"the target of copy {index} changed during the copy")
        target[to : to + blocks] = flight.seen
        self.copies_done.add(index)

    def _do_run(self, _: int) -> None:
        layer = self.graph.layers[self.plan.runs[self.runs_done].layer]
        for op in range(layer.start, layer.stop):
            self._scratch(op)
            self._execute(op)
            self._scratch(op)
            self.slot += 1
        self.runs_done += 1

    def _scratch(self, op: int) -> None:
        """An operator fills the scratch of its segment with junk, before it reads and after it has written."""
        for region, (first, end) in zip(self.plan.scratch, self.plan.segments, strict=False):
            if first <= self.runs_done < end and region.bytes:
                self._fill(self.slab, region.offset, region.bytes, ("scratch", op, self.slot))

    def _execute(self, op: int) -> None:
        info, tensors = self.graph.ops[op], self.graph.tensors
        read, places = [], []
        for t in info.inputs:
            if t < 0 or t in info.constants:
                read.append(("constant", t))
                continue
            r = self.plan.residencies[self._at(self.graph.storages[tensors[t].storage].name, self.slot)]
            read.append(self._value(self.slab, r.offset, r.bytes))
            places.append((r.offset + tensors[t].offset, tensors[t]))
        torn = info.op_type == "Concat" and self._tears(places, tensors[info.outputs[0]])
        label = hash((info.name, tuple(read), ("torn", self.slot) if torn else None))
        for k, t in enumerate(info.outputs):
            if t >= 0:
                r = self.plan.residencies[self._at(self.graph.storages[tensors[t].storage].name, self.slot)]
                self._fill(self.slab, r.offset, r.bytes, ("made", op, k, label))

    def _tears(self, inputs: list[tuple[int, Tensor]], output: Tensor) -> bool:
        """Whether a Concat copies into what it has yet to read: its output shares bytes with some inputs (each with its
        first byte), and they are not all where a copy would put them."""
        r = self.plan.residencies[self._at(self.graph.storages[output.storage].name, self.slot)]
        shared = any(at < r.offset + r.bytes and r.offset < at + t.nbytes for at, t in inputs)
        axis = next((a for a, n in enumerate(output.shape) if n != inputs[0][1].shape[a]), 0)
        in_rows = all(n == 1 for n in output.shape[:axis])
        ends = [at + t.nbytes for at, t in inputs]
        placed = in_rows and [at for at, _ in inputs] == [r.offset, *ends[:-1]]
        return shared and not placed

    def _results(self) -> dict[str, Label]:
        slots = {slot.storage: slot for slot in self.plan.host_slots}
        copied = {self.plan.residencies[c.residency].storage for c in self.plan.copies if c.direction == "out"}
        found = {}
        for storage in self.graph.storages:
            carried = storage.role in (Role.STATE, Role.CONSTANT)
            index = self.graph.storages.index(storage)
            if index not in self.graph.used_storages or not (carried or index in self.graph.output_storages):
                continue
            slot, stays = slots.get(storage.name), self._stays(storage.name)
            if (slot and slot.initial) if carried else storage.name in copied:
                found[storage.name] = self._value(self.host, slot.offset, slot.bytes)
            else:
                r = self.plan.residencies[stays[0] if carried else stays[-1]]
                found[storage.name] = self._value(self.slab, r.offset, r.bytes)
        return found


def expected_labels(graph: Graph) -> dict[str, Label]:
    """Labels that the unplanned graph computes, by plain recursion over unlimited memory."""
    values: dict[int, Label] = {
        i: ("initial", s.name) for i, s in enumerate(graph.storages) if s.role is not Role.COMPUTED
    }
    for op, info in enumerate(graph.ops):
        read = [
            ("constant", t) if t < 0 or t in info.constants else values[graph.tensors[t].storage] for t in info.inputs
        ]
        label = hash((info.name, tuple(read), None))
        for k, t in enumerate(info.outputs):
            if t >= 0:
                values[graph.tensors[t].storage] = ("made", op, k, label)
    return {graph.storages[i].name: label for i, label in values.items()}


def judge(graph: Graph, plan: Plan, seeds: range) -> str | None:
    """None when every tried interleaving computes what the graph says, else what went wrong."""
    expected = expected_labels(graph)
    for seed in seeds:
        try:
            results = Adversary(graph, plan, seed).run()
        except (Race, IndexError) as error:
            return f"seed {seed}: {error}"
        wrong = [name for name, label in results.items() if label != expected[name]]
        if wrong:
            return f"seed {seed}: {wrong[0]} holds {results[wrong[0]]}"
    return None
