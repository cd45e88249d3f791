"""Follows every value through a plan: what each operator and copy reads was written before, in the right version."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from planc.enums import Direction
from planc.graph.graph import Graph, Role
from planc.plan.plan import Plan
from planc.verifier.clocks import Order
from planc.verifier.operators import may_update
from planc.verifier.violation import Violation


@dataclass(slots=True)
class ResidencyUse:
    """How one residency is used. It is written by the operator at `written_at`, or by the copy `brought_by`, or (with
    neither) is there when the step begins. `last_slot` is its last use by an operator, -1 for none; `copies` all copies
    that touch it; `updated_at` the slot at which its state is replaced; `needed_at_end` says that the caller or the next
    step reads it."""

    written_at: int | None = None
    brought_by: int | None = None
    last_slot: int = -1
    copies: list[int] = field(default_factory=list)
    updated_at: int | None = None
    version: int = 0
    needed_at_end: bool = False


class ContentCheck:
    """One pass over a structurally valid plan. `violations` yields what is wrong and fills `uses` on the way."""

    def __init__(self, graph: Graph, plan: Plan, order: Order) -> None:
        self.graph, self.plan, self.order = graph, plan, order
        self.storage_of = {storage.name: index for index, storage in enumerate(graph.storages)}
        self.residencies: defaultdict[int, list[int]] = defaultdict(list)
        for index in sorted(range(len(plan.residencies)), key=lambda i: plan.residencies[i].begin):
            self.residencies[self.storage_of[plan.residencies[index].storage]].append(index)
        self.uses = [ResidencyUse() for _ in plan.residencies]
        self.host = {slot.storage: slot for slot in plan.host_slots}
        self.slots = [
            (position, op)
            for position, run in enumerate(plan.runs)
            for op in range(graph.layers[run.layer].start, graph.layers[run.layer].stop)
        ]

    def violations(self) -> Iterator[Violation]:
        """Everything that is read before it is written, lost, stale, or missing at the end."""
        yield from self._sources()
        for slot, (run, op) in enumerate(self.slots):
            yield from self._writes_state(slot, run, op)
        yield from self._copies()
        for slot, (run, op) in enumerate(self.slots):
            yield from self._reads(slot, run, op)
            yield from self._writes(slot, run, op)
        yield from self._end()

    def _where(self, residency: int) -> str:
        return f"residency {residency} of {self.plan.residencies[residency].storage!r}"

    def _at(self, storage: int, slot: int) -> int | None:
        """The storage's latest residency that begins at or before `slot`."""
        found = [i for i in self.residencies[storage] if self.plan.residencies[i].begin <= slot]
        return found[-1] if found else None

    def address(self, storage: int, slot: int) -> int | None:
        """Where the storage lies when the operator at `slot` touches it, None where it does not."""
        residency = self._at(storage, slot)
        return None if residency is None else self.plan.residencies[residency].offset

    def inputs_at(self, slot: int) -> set[int | None]:
        """The residencies that the operator at `slot` reads."""
        return {self._at(storage, slot) for storage in self.graph.op_reads[self.slots[slot][1]]}

    def _sources(self) -> Iterator[Violation]:
        """Determine who writes each residency."""
        for index, copy in enumerate(self.plan.copies):
            use = self.uses[copy.residency]
            use.copies.append(index)
            if copy.direction is Direction.IN:
                if use.brought_by is not None:
                    yield Violation(
                        "written twice", self._where(copy.residency), f"copies {use.brought_by} and {index}"
                    )
                use.brought_by = index
        for storage, residencies in self.residencies.items():
            begins = [self.plan.residencies[i].begin for i in residencies]
            if len(set(begins)) < len(begins):
                yield Violation("ambiguous", repr(self.graph.storages[storage].name), "two residencies begin at once")
            for residency in residencies:
                yield from self._source(storage, residency)

    def _source(self, storage: int, residency: int) -> Iterator[Violation]:
        use, begin = self.uses[residency], self.plan.residencies[residency].begin
        role = self.graph.storages[storage].role
        slot = self.host.get(self.graph.storages[storage].name)
        given = role is not Role.COMPUTED and begin == 0 and not (slot is not None and slot.initial)
        if begin >= len(self.slots):
            yield Violation("lifetime", self._where(residency), "it begins after the last operator")
        elif use.brought_by is None and role is Role.COMPUTED:
            use.written_at = begin
            if storage not in self.graph.op_writes[self.slots[begin][1]]:
                yield Violation("never written", self._where(residency), f"no operator writes it at slot {begin}")
        elif use.brought_by is None and not given:
            yield Violation("never written", self._where(residency), "nothing puts it there when the step begins")
        elif use.brought_by is not None and given:
            text = f"it is there when the step begins, and copy {use.brought_by} brings it too"
            yield Violation("written twice", self._where(residency), text)

    def _writes_state(self, slot: int, run: int, op: int) -> Iterator[Violation]:
        for storage in self.graph.op_writes[op]:
            if self.graph.storages[storage].role is not Role.STATE:
                continue
            residency = self._at(storage, slot)
            if residency is None or self.plan.residencies[residency].end <= slot:
                yield Violation(
                    "absent", f"run {run}", f"it updates {self.graph.storages[storage].name!r}, which is away"
                )
                continue
            self.uses[residency].updated_at = slot
            if storage in self.graph.op_reads[op] and not may_update(self.graph, op, storage):
                name = self.graph.ops[op].name
                yield Violation(
                    "unsafe in place", self._where(residency), f"operator {name!r} cannot overwrite what it reads"
                )

    def _copies(self) -> Iterator[Violation]:
        """Versions on the host and in residencies that were brought in, in an order that follows the waits."""
        order = sorted(range(len(self.plan.copies)), key=self._copy_key)
        host_version: dict[int, int] = {}
        for index in order:
            copy = self.plan.copies[index]
            if copy.direction is Direction.OUT:
                yield from self._copy_out(index, host_version)
            else:
                yield from self._copy_in(index, host_version)

    def _copy_key(self, index: int) -> tuple[int, int, int]:
        clock = self.order.copies[index]
        return (clock.runs, clock.outs + clock.ins, self.order.rank[index])

    def _copy_out(self, index: int, host_version: dict[int, int]) -> Iterator[Violation]:
        copy = self.plan.copies[index]
        use = self.uses[copy.residency]
        written = use.written_at is None or self.order.run_before_copy(self.slots[use.written_at][0], index)
        brought = use.brought_by is None or self.order.copy_before_copy(use.brought_by, index)
        if not written or not brought:
            yield Violation(
                "read before written", f"copy {index}", f"{self._where(copy.residency)} may not be complete"
            )
        version = use.version
        if use.updated_at is not None:
            run = self.slots[use.updated_at][0]
            if self.order.run_before_copy(run, index):
                version = 1
            elif not self.order.copy_before_run(index, run):
                yield Violation("race", f"copy {index}", f"run {run} updates {self._where(copy.residency)} meanwhile")
        host_version[index] = version

    def _copy_in(self, index: int, host_version: dict[int, int]) -> Iterator[Violation]:
        copy = self.plan.copies[index]
        name = self.plan.residencies[copy.residency].storage
        use = self.uses[copy.residency]
        latest: int | None = None
        for other in self._outs_of(name):
            if self.order.copy_before_copy(other, index):
                if latest is None or self.order.rank[other] > self.order.rank[latest]:
                    latest = other
            elif not self.order.copy_before_copy(index, other):
                yield Violation("race", f"copy {index}", f"copy {other} may be writing the host copy of {name!r}")
        if latest is not None:
            use.version = host_version.get(latest, 0)
        elif not self.host[name].initial and self._role(name) not in (Role.BATCH, Role.CONSTANT):
            yield Violation("read before written", f"copy {index}", f"the host has no copy of {name!r} yet")

    def _outs_of(self, name: str) -> list[int]:
        copies = self.plan.copies
        touching = [c for residency in self.residencies[self.storage_of[name]] for c in self.uses[residency].copies]
        return [c for c in touching if copies[c].direction is Direction.OUT]

    def _role(self, name: str) -> Role:
        return self.graph.storages[self.storage_of[name]].role

    def _reads(self, slot: int, run: int, op: int) -> Iterator[Violation]:
        info = self.graph.ops[op]
        for tensor in info.inputs:
            if tensor < 0 or tensor in info.constants:
                continue
            storage = self.graph.tensors[tensor].storage
            residency = self._at(storage, slot)
            if residency is None or self.plan.residencies[residency].end <= slot:
                name = self.graph.storages[storage].name
                yield Violation(
                    "absent", f"run {run}", f"operator {info.name!r} reads {name!r}, which is not in the slab"
                )
                continue
            self.uses[residency].last_slot = slot
            yield from self._readable(residency, slot, run, self.graph.tensors[tensor].updated)

    def _readable(self, residency: int, slot: int, run: int, wants_updated: bool) -> Iterator[Violation]:
        use = self.uses[residency]
        late = use.written_at is not None and use.written_at >= slot
        if late or (use.brought_by is not None and not self.order.copy_before_run(use.brought_by, run)):
            yield Violation("read before written", f"run {run}", f"{self._where(residency)} may not be complete")
        version = 1 if use.updated_at is not None and use.updated_at < slot else use.version
        if version != int(wants_updated):
            kind = "the old value" if wants_updated else "the updated value"
            yield Violation("stale", f"run {run}", f"it reads {kind} of {self._where(residency)}")

    def _writes(self, slot: int, run: int, op: int) -> Iterator[Violation]:
        for storage in self.graph.op_writes[op]:
            residency = self._at(storage, slot)
            if residency is None:
                yield Violation("absent", f"run {run}", f"it writes {self.graph.storages[storage].name!r} to no place")
                continue
            use = self.uses[residency]
            if self.graph.storages[storage].role is Role.COMPUTED and use.written_at != slot:
                yield Violation("absent", f"run {run}", f"its output has no residency at slot {slot}")
            elif use.brought_by is not None and not self.order.copy_before_run(use.brought_by, run):
                yield Violation("race", f"run {run}", f"copy {use.brought_by} still writes {self._where(residency)}")
            use.last_slot = max(use.last_slot, slot)

    def _end(self) -> Iterator[Violation]:
        """Outputs are somewhere, in the version that they are, and state and constants are where the next step expects
        them."""
        for tensor in self.graph.outputs:
            yield from self._output_version(tensor)
        used = {s for _, op in self.slots for s in (*self.graph.op_reads[op], *self.graph.op_writes[op])}
        for storage in sorted(used | self.graph.output_storages):
            role = self.graph.storages[storage].role
            if role in (Role.STATE, Role.CONSTANT):
                yield from self._carried(storage)
            elif storage in self.graph.output_storages and not self._available(storage):
                yield Violation("lost output", repr(self.graph.storages[storage].name), "it is nowhere at the end")

    def _output_version(self, tensor: int) -> Iterator[Violation]:
        """The bytes of a state that the step replaces are no output's that is the old value, nor a view of it."""
        info = self.graph.tensors[tensor]
        mutated = any(self.uses[i].updated_at is not None for i in self.residencies[info.storage])
        if mutated and not info.updated:
            yield Violation("stale output", repr(info.name), "it is the old value of a state that the step replaces")

    def _available(self, storage: int) -> bool:
        """An output that is copied out is read from the host, any other from its last residency."""
        if self._outs_of(self.graph.storages[storage].name):
            return True
        residencies = self.residencies[storage]
        if not residencies or self.plan.residencies[residencies[-1]].end < len(self.slots):
            return False
        self.uses[residencies[-1]].needed_at_end = True
        return True

    def _carried(self, storage: int) -> Iterator[Violation]:
        name, residencies = self.graph.storages[storage].name, self.residencies[storage]
        mutated = any(self.uses[i].updated_at is not None for i in residencies)
        slot = self.host.get(name)
        if slot is not None and slot.initial:
            outs = sorted(self._outs_of(name), key=self.order.rank.__getitem__)
            if mutated and (not outs or self._out_version(outs[-1]) != 1):
                yield Violation("lost state", repr(name), "its new value is not copied out before the step ends")
            return
        if not residencies or self.plan.residencies[residencies[-1]].end < len(self.slots):
            yield Violation("lost state", repr(name), "it is not in the slab at the end of the step")
            return
        first, last = self.plan.residencies[residencies[0]], self.plan.residencies[residencies[-1]]
        final = self.uses[residencies[-1]]
        final.needed_at_end = True
        if first.begin != 0 or first.offset != last.offset:
            yield Violation(
                "lost state", repr(name), f"it ends at {last.offset}, but the next step expects {first.offset}"
            )
        if mutated and final.updated_at is None and final.version != 1:
            yield Violation("lost state", repr(name), "what is in the slab at the end is the old value")

    def _out_version(self, copy: int) -> int:
        use = self.uses[self.plan.copies[copy].residency]
        if use.updated_at is not None and self.order.run_before_copy(self.slots[use.updated_at][0], copy):
            return 1
        return use.version
