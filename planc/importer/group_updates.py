"""Joins updates of several parameters into one operator, a kernel instead of many that are over before they began.

An update of a vector takes a kernel that reads and writes some kilobytes; ResNet-50 has 161 such kernels, GPT-2 123. A
group's kernel updates several parameters, each with the arithmetic, and hence the bits, of its own (`planc.graph.grouped`).
What the optimizer's rule is does not matter: whatever element-wise operators it has became one fused operator for each
parameter before.

A group runs where its last member ran, so the gradients of the others wait for it. What that may cost is bounded twice.
The step's peak does not rise: a member that would raise it begins another group. And all that a group touches, gradients,
parameters and state, stays within a small share of the peak, and within what the neediest operator touches: below the
peak a plan holds these bytes at once, and a large parameter gains nothing by company.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx

from planc.graph import fused
from planc.graph.annotations import annotate_node, node_annotation
from planc.graph.grouped import Member, grouped
from planc.importer.draft import Draft, opset_of
from planc.importer.live_bytes import StepMemory
from planc.importer.wired import Wired
from planc.units import ALIGNMENT, align_up

SHARE = 128
"""A group touches at most one part in so many of the step's peak: in a plan for a quarter of it, 3 % of the budget."""

MOST_OPERANDS = 400
"""Inputs and outputs of a group: a kernel takes 4 KiB of parameters on every card, hence 512 addresses."""

KIND = "group"
"""Kind of the layers that groups are."""


@dataclass
class _Open:
    """A group under construction: positions of its members, the storages that they read and write."""

    members: list[int] = field(default_factory=list)
    reads: set[int] = field(default_factory=set)
    writes: set[int] = field(default_factory=set)
    operands: set[int] = field(default_factory=set)


def group_updates(draft: Draft, functions: dict[str, onnx.FunctionProto]) -> None:
    """Join updates among the draft's nodes; `functions`, of the fused operators by type, get those of the groups."""
    grouping = _Grouping(draft, functions)
    grouping.run()
    draft.nodes = grouping.result()


class _Grouping:
    def __init__(self, draft: Draft, functions: dict[str, onnx.FunctionProto]) -> None:
        self.draft, self.functions, self.nodes = draft, functions, draft.nodes
        self.memory = StepMemory(draft)
        roots = draft.tensors.places.roots()
        self.storage = [self.memory.storage(root) for root in roots]
        self.size = {s: align_up(span.nbytes, ALIGNMENT) for s, span in self.memory.storages.items()}
        self.live, self.peak = self._measured()
        self.limit = min(self.memory.neediest, self.peak // SHARE)
        self.following = {roots[new] for old, new in draft.state.items() if roots[new] != roots[old]}
        self.roots = roots
        self.groups: dict[int, list[int]] = {}
        """Members by the position where their group runs."""
        self.open = _Open()

    def _measured(self) -> tuple[npt.NDArray[np.int64], int]:
        """Live bytes at every node, and what their peak is at least: a node may write its first output over an input."""
        change = np.zeros(self.memory.end + 2, np.int64)
        for storage, span in self.memory.storages.items():
            change[span.begin] += self.size[storage]
            change[span.end + 1] -= self.size[storage]
        live = change.cumsum()
        made = (self.storage[node.outputs[0]] for node in self.nodes)
        first = [0 if storage in self.memory.carried else self.size.get(storage, 0) for storage in made]
        return live, int((live[: len(first)] - np.array(first, np.int64)).max(initial=0))

    def run(self) -> None:
        """Find the groups: one pass over the nodes, one group open at a time."""
        for at, node in enumerate(self.nodes):
            if self._is_update(node):
                if not self._joins(at):
                    self._close()
                    self._joins(at)
            elif self._is_in_the_way(node):
                self._close()
        self._close()

    def result(self) -> list[Wired]:
        """The nodes, every group at the place of its last member."""
        gone = {at for members in self.groups.values() for at in members}
        return [
            self._joined(self.groups[at]) if at in self.groups else node
            for at, node in enumerate(self.nodes)
            if at in self.groups or at not in gone
        ]

    # --- which nodes

    def _is_update(self, node: Wired) -> bool:
        """Whether all that a fused operator makes are next values of state, from tensors of their shape and scalars."""
        if node.proto.domain != fused.DOMAIN or any(self.roots[out] not in self.following for out in node.outputs):
            return False
        types, shape = self.draft.tensors.types, self.draft.tensors.types[node.outputs[0]][1]
        shapes = [types[i][1] for i in node.inputs]
        return all(types[out][1] == shape for out in node.outputs) and all(
            s == shape or all(size == 1 for size in s) for s in shapes
        )

    def _stored(self, tensors: Sequence[int]) -> set[int]:
        """Storages of tensors, constants apart, whose bytes are there all the time."""
        return {self.storage[t] for t in tensors if t >= 0} & self.memory.storages.keys()

    def _joins(self, at: int) -> bool:
        """Let an update join the open group, if nothing forbids it."""
        node, group = self.nodes[at], self.open
        reads, writes = self._stored(node.inputs), self._stored(node.outputs)
        operands = group.operands | {*node.inputs, *node.outputs}
        touched = group.reads | group.writes | reads | writes
        apart = group.writes.isdisjoint(reads | writes) and writes.isdisjoint(group.reads)
        within = sum(self.size[s] for s in touched) <= self.limit
        if not (apart and within and len(operands) <= MOST_OPERANDS and self._waits(at)):
            return False
        self.open = _Open([*group.members, at], group.reads | reads, group.writes | writes, operands)
        return True

    def _waits(self, at: int) -> bool:
        """Let what the open group reads live until the node `at`, unless that raises the peak."""
        spans = self.memory.storages
        waiting = [storage for storage in self.open.reads if spans[storage].end < at]
        begin = min((spans[storage].end + 1 for storage in waiting), default=at)
        live = self.live[begin : at + 1].copy()
        for storage in waiting:
            live[spans[storage].end + 1 - begin :] += self.size[storage]
        if waiting and int(live.max()) > self.peak:
            return False
        self.live[begin : at + 1] = live
        for storage in waiting:
            spans[storage].end = at
        return True

    def _is_in_the_way(self, node: Wired) -> bool:
        """Whether a node that stays before the open group needs it to have run, or changes what it reads."""
        group, written = self.open, self._stored(node.outputs)
        return not (group.writes.isdisjoint(self._stored(node.inputs) | written) and group.reads.isdisjoint(written))

    def _close(self) -> None:
        if len(self.open.members) > 1:
            self.groups[self.open.members[-1]] = self.open.members
        self.open = _Open()

    # --- one operator for a group

    def _joined(self, members: Sequence[int]) -> Wired:
        nodes = [self.nodes[at] for at in members]
        inputs = list(dict.fromkeys(i for node in nodes for i in node.inputs))
        outputs = tuple(out for node in nodes for out in node.outputs)
        place = {tensor: position for position, tensor in enumerate(inputs)}
        parts = [
            Member(self.functions[node.op_type], tuple(place[i] for i in node.inputs), ()) for node in nodes
        ]  # fmt: skip
        function = grouped(parts, opset_of(self.draft.bare.opsets))
        self.functions[function.name] = function
        names, last = self.draft.tensors.names, nodes[-1].proto
        proto = onnx.NodeProto(name=f"{last.name}*{len(nodes)}", op_type=function.name, domain=fused.DOMAIN)
        proto.input.extend(names[i] for i in inputs)
        proto.output.extend(names[out] for out in outputs)
        layer, _, phase = node_annotation(last) or (last.name, "", "update")
        annotate_node(proto, f"{layer} and {len(nodes) - 1} more", KIND, phase)
        return Wired(proto, function.name, tuple(inputs), outputs)
