"""An order of the nodes in which state can be updated in place.

The new value of a state input takes the old one's bytes, so the operator that writes it must come after every other
reader of the old value. Files usually have that order; where one has not, nodes are sorted anew with an edge from each
reader to the writer. Where even that is impossible (a reader of the old value needs the new one, or the writer cannot
run in place), the new value keeps bytes of its own and an Identity node at the end of the step copies it over.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import networkx as nx
import onnx

from planc.graph.annotations import annotate_node
from planc.graph.inplace import may_write_over

COPY_SUFFIX = "@planc.copy"
"""Suffix of the tensor that an added state copy writes."""


@dataclass(frozen=True)
class NodeOrder:
    """Nodes in execution order, the last ones being added state copies (their outputs end in COPY_SUFFIX)."""

    nodes: list[onnx.NodeProto]
    copied: frozenset[str]


def order_for_updates(
    nodes: list[onnx.NodeProto],
    state: Mapping[str, str],
    root: Callable[[str], int],
    type_of: Callable[[str], tuple[str, tuple[int, ...]]],
) -> NodeOrder:
    """Order `nodes` for in-place updates of `state` (input name → output name).

    `root` identifies the storage behind a name (views share one); `type_of` gives dtype and shape.
    """
    writer = {root(name): at for at, node in enumerate(nodes) for name in node.output if name}
    readers: defaultdict[int, list[int]] = defaultdict(list)
    for at, node in enumerate(nodes):
        for storage in {root(name) for name in node.input if name}:
            readers[storage].append(at)
    copied: set[str] = set()
    edges: list[tuple[int, int]] = []
    dataflow: nx.DiGraph | None = None  # large, and seldom needed
    taken: set[int] = set()
    for name, out in state.items():
        old, new = root(name), root(out)
        if old == new:
            continue
        at = writer.get(new, -1)
        if at < 0 or new in taken or not _in_place(nodes[at], old, root, type_of):
            copied.add(name)
            continue
        late = [r for r in readers[old] if r > at]
        if late and dataflow is None:
            dataflow = _dataflow(nodes, root)
        if dataflow is not None and any(nx.has_path(dataflow, at, r) for r in late):
            copied.add(name)
            continue
        taken.add(new)
        edges += [(r, at) for r in late]
    ordered = _sorted(nodes, dataflow, edges) if dataflow is not None and edges else nodes
    return NodeOrder(ordered + [_copy(name, state[name]) for name in state if name in copied], frozenset(copied))


def _dataflow(nodes: list[onnx.NodeProto], root: Callable[[str], int]) -> nx.DiGraph:
    graph = nx.DiGraph()
    graph.add_nodes_from(range(len(nodes)))
    writer: dict[int, int] = {}
    for at, node in enumerate(nodes):
        graph.add_edges_from((writer[root(name)], at) for name in node.input if name and root(name) in writer)
        writer.update({root(name): at for name in node.output if name})
    return graph


def _in_place(
    node: onnx.NodeProto, old: int, root: Callable[[str], int], type_of: Callable[[str], tuple[str, tuple[int, ...]]]
) -> bool:
    """Whether `node` may write its first output over the old state: it does not read it, or reads it element by element."""
    inputs = [(root(name), *type_of(name)) if name else (-1, "", ()) for name in node.input]
    if old not in {storage for storage, _, _ in inputs}:
        return True
    return old in may_write_over(node.op_type, node.domain, inputs, type_of(node.output[0]))


def _sorted(nodes: list[onnx.NodeProto], dataflow: nx.DiGraph, edges: list[tuple[int, int]]) -> list[onnx.NodeProto]:
    dataflow.add_edges_from(edges)
    return [nodes[at] for at in nx.lexicographical_topological_sort(dataflow, key=lambda at: at)]


def _copy(name: str, out: str) -> onnx.NodeProto:
    node = onnx.helper.make_node("Identity", [out], [name + COPY_SUFFIX], name=f"copy:{name}")
    annotate_node(node, name, "state-copy", "update")
    return node
