"""An order of the nodes in which state can be updated in place.

The new value of a state input takes the old one's bytes, so the operator that writes it must come after every other
reader of the old value. Files usually have that order; where one has not, nodes are sorted anew with an edge from each
reader to the writer. Where even that is impossible (a reader of the old value needs the new one, or the writer cannot
run in place), the new value keeps bytes of its own and is to be copied over at the end of the step.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from planc.graph.inplace import may_write_over
from planc.graph.wellformed import RESERVED
from planc.importer.draft import Draft
from planc.importer.wired import Wired

if TYPE_CHECKING:
    from planc.importer.dataflow import Dataflow


COPY_SUFFIX = f"{RESERVED}copy"
"""Suffix of the tensor that an added copy of a state's next value writes."""


def order_updates(draft: Draft) -> None:
    """Put the nodes into an order for in-place updates, and copies of the other states' next values behind them."""
    tensors, updates = draft.tensors, _Updates(draft)
    copied = [old for old, new in draft.state.items() if not updates.claim(old, new)]
    draft.nodes = updates.ordered()
    for old in copied:
        copy = draft.copied(draft.state[old], tensors.names[old] + COPY_SUFFIX, tensors.names[old], "state-copy")
        draft.nodes.append(copy)
        draft.state[old] = copy.outputs[0]


class _Updates:
    """The states that are updated in place so far, as edges from each reader of an old value to its writer."""

    def __init__(self, draft: Draft) -> None:
        self.nodes, self.types, self.root = draft.nodes, draft.tensors.types, draft.tensors.places.roots()
        root = self.root
        self.writer = {root[out]: at for at, node in enumerate(self.nodes) for out in node.outputs if out >= 0}
        self.readers: defaultdict[int, list[int]] = defaultdict(list)
        states = {root[old] for old in draft.state}
        for at, node in enumerate(self.nodes):
            for storage in states.intersection(root[i] for i in node.inputs if i >= 0):
                self.readers[storage].append(at)
        self.taken: set[int] = set()
        self.edges: list[tuple[int, int]] = []
        self.dataflow: Dataflow | None = None
        """Made when the first reader comes late, and kept up to date from then on."""
        self.moved = False

    def claim(self, old: int, new: int) -> bool:
        """Whether the state `old` can take its next value in place, beside those before it; if so, it will."""
        before_step, after_step = self.root[old], self.root[new]
        if before_step == after_step:
            return True
        at = self.writer.get(after_step, -1)
        if at < 0 or after_step in self.taken or not _in_place(self.nodes[at], before_step, self.root, self.types):
            return False
        before = [(reader, at) for reader in self.readers[before_step] if reader != at]
        late = any(reader > at for reader, _ in before)
        if late and self.dataflow is None:
            self.dataflow = _dataflow(self.nodes, self.root, self.edges)
        if self.dataflow is not None and self.dataflow.reaches(at, {reader for reader, _ in before}):
            return False
        self.taken.add(after_step)
        self.edges += before
        self.moved |= late
        if self.dataflow is not None:
            self.dataflow.add(before)
        return True

    def ordered(self) -> list[Wired]:
        """The nodes, every writer of a state behind the readers of its old value."""
        if self.dataflow is None or not self.moved:
            return self.nodes
        return [self.nodes[at] for at in self.dataflow.order()]


def _dataflow(nodes: list[Wired], root: Sequence[int], edges: list[tuple[int, int]]) -> "Dataflow":
    """Large and seldom needed, and so is the library behind it."""
    from planc.importer.dataflow import Dataflow

    dataflow = Dataflow(nodes, root)
    dataflow.add(edges)
    return dataflow


def _in_place(node: Wired, old: int, root: Sequence[int], types: Sequence[tuple[str, tuple[int, ...]]]) -> bool:
    """Whether `node` may write its first output over the old state: it does not read it, or reads it element by element."""
    inputs = [(root[i], *types[i]) if i >= 0 else (-1, "", ()) for i in node.inputs]
    if old not in {storage for storage, _, _ in inputs}:
        return True
    return old in may_write_over(node.op_type, node.proto.domain, inputs, types[node.outputs[0]])
