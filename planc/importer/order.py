"""An order of the nodes in which state can be updated in place.

The new value of a state input takes the old one's bytes, so the operator that writes it must come after every other
reader of the old value. Files usually have that order; where one has not, nodes are sorted anew with an edge from each
reader to the writer. Where even that is impossible (a reader of the old value needs the new one, or the writer cannot
run in place), the new value keeps bytes of its own and is to be copied over at the end of the step.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from planc.graph.inplace import may_write_over
from planc.importer.wired import Wired

if TYPE_CHECKING:
    from planc.importer.dataflow import Dataflow


def order_for_updates(
    nodes: list[Wired],
    state: Mapping[int, int],
    root: Sequence[int],
    types: Sequence[tuple[str, tuple[int, ...]]],
) -> tuple[list[Wired], frozenset[int]]:
    """`nodes` in an order for in-place updates of `state` (input → output), and the inputs that have to be copied over.

    `root` has for each tensor what identifies its storage (views share one), `types` its dtype and shape.
    """
    writer = {root[out]: at for at, node in enumerate(nodes) for out in node.outputs if out >= 0}
    states = {root[old] for old in state}
    readers: defaultdict[int, list[int]] = defaultdict(list)
    for at, node in enumerate(nodes):
        for storage in states.intersection(root[i] for i in node.inputs if i >= 0):
            readers[storage].append(at)
    copied: set[int] = set()
    edges: list[tuple[int, int]] = []
    moved = False
    dataflow: Dataflow | None = None
    taken: set[int] = set()
    for name, out in state.items():
        old, new = root[name], root[out]
        if old == new:
            continue
        at = writer.get(new, -1)
        if at < 0 or new in taken or not _in_place(nodes[at], old, root, types):
            copied.add(name)
            continue
        before = [(reader, at) for reader in readers[old] if reader != at]
        late = any(reader > at for reader, _ in before)
        if late and dataflow is None:
            dataflow = _dataflow(nodes, root, edges)
        if dataflow is not None and dataflow.reaches(at, {reader for reader, _ in before}):
            copied.add(name)
            continue
        taken.add(new)
        edges += before
        moved |= late
        if dataflow is not None:
            dataflow.add(before)
    if dataflow is not None and moved:
        nodes = [nodes[at] for at in dataflow.order()]
    return nodes, frozenset(copied)


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
