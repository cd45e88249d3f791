"""The second judge of plans: every interleaving of small ones, from the plan's document alone.

It shares no code and no assumption with the verifier or with `support.adversary`. One thread queues the plan boundary by
boundary on three queues, as the document of `planc.plan.plan` says; a wait for what is not queued yet is a fault. Then
every order in which the queues can advance is tried, operators and copies taking time: each reads when it begins and again
when it ends, and what it writes is garbage in between. Values are numbers that say what was computed from what.
"""

from collections.abc import Iterator
from itertools import count

from planc.graph.graph import Graph, Role
from planc.plan.plan import Copy, Plan

BLOCK = 256
ONE_TO_ONE = frozenset({"Relu", "Neg", "Tanh", "Add", "Sub", "Mul", "Sigmoid", "Exp", "Identity"})
"""Operators of the small graphs that read an element before they write it."""

Item = tuple[str, int]
Memory = tuple[int, ...]


class Fault(Exception):
    """The plan does not compute its graph."""


class BruteForce:
    """Looks for a fault of one plan. Blocks of the slab are numbered from 0, those of the host slab follow them."""

    def __init__(self, graph: Graph, plan: Plan) -> None:
        self.graph, self.plan = graph, plan
        self.slab_blocks = -(-plan.memory.slab_bytes // BLOCK)
        self.ids: dict[object, int] = {}
        self.starts: list[int] = []
        self.op_at: list[tuple[int, int]] = []
        for run, entry in enumerate(plan.runs):
            layer = graph.layers[entry.layer]
            self.starts.append(len(self.op_at))
            self.op_at += [(run, op) for op in range(layer.start, layer.stop)]
        self.starts.append(len(self.op_at))
        self.stays: dict[str, list[int]] = {}
        for index in sorted(range(len(plan.residencies)), key=lambda i: plan.residencies[i].begin):
            self.stays.setdefault(plan.residencies[index].storage, []).append(index)

    def number(self, what: object) -> int:
        return self.ids.setdefault(what, len(self.ids))

    def queues(self) -> tuple[list[Item], list[Item], list[Item]]:
        """What each engine does in order: ("op", slot), ("copy", index), ("wait", copy), ("runs", count)."""
        compute: list[Item] = []
        engines: dict[str, list[Item]] = {"out": [], "in": []}
        queued: set[int] = set()
        for boundary in range(len(self.plan.runs) + 1):
            pending = [i for i, copy in enumerate(self.plan.copies) if copy.after == boundary]
            while pending:
                heads = {self.plan.copies[i].direction.value: i for i in reversed(pending)}
                ready = [i for i in heads.values() if queued >= set(self.plan.copies[i].waits)]
                if not ready:
                    raise Fault(f"copy {pending[0]} waits for what is not queued before it")
                engines[self.plan.copies[ready[0]].direction.value] += self._copy_items(ready[0])
                queued.add(ready[0])
                pending.remove(ready[0])
            if boundary < len(self.plan.runs):
                waits = self.plan.runs[boundary].waits
                if not queued >= set(waits):
                    raise Fault(f"run {boundary} waits for what is not queued before it")
                compute += [("wait", copy) for copy in waits]
                compute += [("op", slot) for slot in range(self.starts[boundary], self.starts[boundary + 1])]
                compute.append(("ran", boundary + 1))
        return compute, engines["out"], engines["in"]

    def _copy_items(self, index: int) -> list[Item]:
        copy = self.plan.copies[index]
        return [("runs", copy.after), *(("wait", other) for other in copy.waits), ("copy", index)]

    def search(self, limit: int = 200_000) -> str | None:
        """What goes wrong in some interleaving; None when in none. Raises OverflowError where there are too many."""
        try:
            self.expected = self._expected()
            queues = self.queues()
            start = ((0, 0, 0), (None, None, None), 0, frozenset[int](), self._initial())
            seen, pending = {start}, [start]
            while pending:
                for after in self._advance(queues, pending.pop()):
                    if after not in seen:
                        seen.add(after)
                        pending.append(after)
                if len(seen) > limit:
                    raise OverflowError("too many interleavings")
        except (Fault, IndexError, KeyError) as fault:
            return f"{type(fault).__name__}: {fault}"
        return None

    def _advance(self, queues: tuple[list[Item], ...], state: tuple) -> Iterator[tuple]:
        at, busy, runs, done, memory = state
        moved = False
        for engine, queue in enumerate(queues):
            if at[engine] == len(queue):
                continue
            kind, index = queue[at[engine]]
            further = (*at[:engine], at[engine] + 1, *at[engine + 1 :])
            if kind in ("wait", "runs", "ran"):
                if (kind == "wait" and index not in done) or (kind == "runs" and runs < index):
                    continue
                yield further, busy, index if kind == "ran" else runs, done, memory
            elif busy[engine] is None:
                seen, garbled = self._begin(kind, index, memory)
                yield at, (*busy[:engine], seen, *busy[engine + 1 :]), runs, done, garbled
            else:
                written = self._finish(kind, index, memory, busy[engine])
                yield (
                    further, (*busy[:engine], None, *busy[engine + 1 :]), runs,
                    done | {index} if kind == "copy" else done, written,
                )  # fmt: skip
            moved = True
        if not moved:
            if any(at[engine] < len(queue) for engine, queue in enumerate(queues)):
                raise Fault("the engines wait for each other")
            self._check_end(memory)

    def _begin(self, kind: str, index: int, memory: Memory) -> tuple[Memory, Memory]:
        reads, writes = self._copy_blocks(index) if kind == "copy" else self._op_blocks(index)
        seen = tuple(memory[b] for b in reads)
        quiet = set(writes) - set(reads) if kind == "op" else set(writes)
        return seen, self._put(memory, sorted(quiet), self.number(("garbage", kind, index)))

    def _finish(self, kind: str, index: int, memory: Memory, seen: Memory) -> Memory:
        reads, writes = self._copy_blocks(index) if kind == "copy" else self._op_blocks(index)
        if tuple(memory[b] for b in reads) != seen:
            raise Fault(f"{kind} {index} reads what changes meanwhile")
        garbage = self.number(("garbage", kind, index))
        if any(memory[b] != garbage for b in (set(writes) if kind == "copy" else set(writes) - set(reads))):
            raise Fault(f"{kind} {index} writes where something else does")
        if kind == "copy":
            return self._place(memory, writes, seen)
        return self._operate(index, memory)

    def _operate(self, slot: int, memory: Memory) -> Memory:
        run, op = self.op_at[slot]
        info = self.graph.ops[op]
        inputs = [self._tensor_blocks(t, slot) for t in info.inputs if t >= 0 and t not in info.constants]
        outputs = [self._tensor_blocks(t, slot) for t in info.outputs if t >= 0]
        values = tuple(self._value(memory, blocks) for blocks in inputs)
        torn = self._torn(info.op_type, inputs, outputs)
        if torn == "left out":
            return self._place(memory, outputs[0], [self._made(op, 0, values, b) for b in range(len(outputs[0]))])
        for k, blocks in enumerate(outputs):
            made = [self.number(("torn", slot)) if torn else self._made(op, k, values, b) for b in range(len(blocks))]
            memory = self._place(memory, blocks, made)
        region = self._scratch_of(run)
        return self._put(memory, region, self.number(("scratch", slot)))

    def _torn(self, op_type: str, inputs: list[list[int]], outputs: list[list[int]]) -> str:
        """Whether an operator overwrites what it has still to read; "left out" for a Concat that does not run."""
        if op_type == "Concat" and [b for part in inputs for b in part] == outputs[0]:
            return "left out"
        for written in outputs:
            for read in inputs:
                if set(read) & set(written) and not (op_type in ONE_TO_ONE and read == written):
                    return "torn"
        return ""

    def _made(self, op: int, k: int, values: tuple[int, ...], block: int) -> int:
        return self.number((self.graph.ops[op].name, k, values, block))

    def _value(self, memory: Memory, blocks: list[int]) -> int:
        return self.number(("value", tuple(memory[b] for b in blocks)))

    def _put(self, memory: Memory, blocks: list[int], value: int) -> Memory:
        return self._place(memory, blocks, [value] * len(blocks))

    def _place(self, memory: Memory, blocks: list[int], values: list[int] | Memory) -> Memory:
        changed = list(memory)
        for block, value in zip(blocks, values, strict=True):
            changed[block] = value
        return tuple(changed)

    def _range(self, offset: int, size: int, host: bool = False) -> list[int]:
        end = self.plan.memory.host_bytes if host else self.plan.memory.slab_bytes
        if offset < 0 or size < 0 or offset + size > end:
            raise Fault("outside memory")
        base = self.slab_blocks if host else 0
        return list(range(base + offset // BLOCK, base + -(-(offset + size) // BLOCK)))

    def _stay(self, storage: str, slot: int) -> int:
        return [i for i in self.stays[storage] if self.plan.residencies[i].begin <= slot][-1]

    def _tensor_blocks(self, tensor: int, slot: int) -> list[int]:
        info = self.graph.tensors[tensor]
        stay = self.plan.residencies[self._stay(self.graph.storages[info.storage].name, slot)]
        return self._range(stay.offset + info.offset, info.nbytes)

    def _scratch_of(self, run: int) -> list[int]:
        found: list[int] = []
        for region, (first, end) in zip(self.plan.scratch, self.plan.segments, strict=False):
            if first <= run < end:
                found += self._range(region.offset, region.bytes)
        return found

    def _op_blocks(self, slot: int) -> tuple[list[int], list[int]]:
        run, op = self.op_at[slot]
        info = self.graph.ops[op]
        reads = [b for t in info.inputs if t >= 0 and t not in info.constants for b in self._tensor_blocks(t, slot)]
        writes = [b for t in info.outputs if t >= 0 for b in self._tensor_blocks(t, slot)]
        scratch = self._scratch_of(run)
        if set(scratch) & set(reads) or set(scratch) & set(writes):
            raise Fault("scratch lies over a tensor")
        return reads, [*writes, *scratch]

    def _copy_blocks(self, index: int) -> tuple[list[int], list[int]]:
        copy: Copy = self.plan.copies[index]
        slab = self._range(self.plan.residencies[copy.residency].offset, copy.bytes)
        host = self._range(copy.host_offset, copy.bytes, host=True)
        if len(slab) != len(host):
            raise Fault("a copy of parts of blocks")
        return (slab, host) if copy.direction.value == "out" else (host, slab)

    def _initial(self) -> Memory:
        blocks = self.slab_blocks + -(-self.plan.memory.host_bytes // BLOCK)
        serial = count()
        memory: Memory = tuple(self.number(("junk", next(serial))) for _ in range(blocks))
        slots = {slot.storage: slot for slot in self.plan.host_slots}
        taken: set[int] = set()
        for storage in self.graph.storages:
            if storage.role is Role.COMPUTED:
                continue
            places = []
            slot, stays = slots.get(storage.name), self.stays.get(storage.name, [])
            if slot is not None:
                places.append(self._range(slot.offset, storage.nbytes, host=True))
            first = self.plan.residencies[stays[0]] if stays else None
            if first is not None and first.begin == 0 and not (slot is not None and slot.initial):
                places.append(self._range(first.offset, storage.nbytes))
            for place in places:
                if taken & set(place):
                    raise Fault("two values are given the same place")
                taken |= set(place)
                memory = self._place(memory, place, self._given(storage.name, len(place)))
        return memory

    def _given(self, name: str, blocks: int) -> list[int]:
        return [self.number(("given", name, b)) for b in range(blocks)]

    def _expected(self) -> dict[str, list[int]]:
        """Blocks of every storage at the end of the step, computed without a plan, in memory without end."""
        graph, held = self.graph, dict[int, list[int]]()
        for at, storage in enumerate(graph.storages):
            blocks = -(-storage.nbytes // BLOCK)
            held[at] = self._given(storage.name, blocks) if storage.role is not Role.COMPUTED else [-1] * blocks
        for op, info in enumerate(graph.ops):
            values = tuple(
                self.number(("value", tuple(self._part(held, t))))
                for t in info.inputs if t >= 0 and t not in info.constants
            )  # fmt: skip
            for k, t in enumerate(t for t in info.outputs if t >= 0):
                held[graph.tensors[t].storage] = [
                    self._made(op, k, values, b) for b in range(len(held[graph.tensors[t].storage]))
                ]
        return {storage.name: held[at] for at, storage in enumerate(graph.storages)}

    def _part(self, held: dict[int, list[int]], tensor: int) -> list[int]:
        info = self.graph.tensors[tensor]
        first = info.offset // BLOCK
        return held[info.storage][first : first + -(-info.nbytes // BLOCK)]

    def _check_end(self, memory: Memory) -> None:
        graph, plan = self.graph, self.plan
        slots = {slot.storage: slot for slot in plan.host_slots}
        out = {plan.residencies[c.residency].storage for c in plan.copies if c.direction.value == "out"}
        for at, storage in enumerate(graph.storages):
            carried = storage.role in (Role.STATE, Role.CONSTANT)
            if at not in graph.used_storages or not (carried or at in graph.output_storages):
                continue
            slot, stays = slots.get(storage.name), self.stays.get(storage.name, [])
            if (carried and slot is not None and slot.initial) or (not carried and storage.name in out):
                if slot is None:
                    raise Fault(f"{storage.name!r} has no place on the host")
                place = self._range(slot.offset, storage.nbytes, host=True)
            elif not stays:
                raise Fault(f"{storage.name!r} is nowhere")
            else:
                place = self._range(plan.residencies[stays[0 if carried else -1]].offset, storage.nbytes)
            if [memory[b] for b in place] != self.expected[storage.name]:
                raise Fault(f"{storage.name!r} ends with another value")


def brute_force(graph: Graph, plan: Plan) -> str | None:
    """What goes wrong in some interleaving of a small plan; None when nothing does."""
    try:
        judge = BruteForce(graph, plan)
    except IndexError:
        return "it runs a layer that does not exist"
    return judge.search()
