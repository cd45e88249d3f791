"""The dataflow between nodes as a graph, for the few models whose nodes need another order."""

from collections.abc import Iterable, Sequence, Set

import networkx as nx

from planc.importer.wired import Wired


class Dataflow:
    """An edge from each node to every node that reads what it makes; nodes go by their position."""

    def __init__(self, nodes: Sequence[Wired], root: Sequence[int]) -> None:
        self._graph = nx.DiGraph()
        self._graph.add_nodes_from(range(len(nodes)))
        writer: dict[int, int] = {}
        for at, node in enumerate(nodes):
            self._graph.add_edges_from((writer[root[i]], at) for i in node.inputs if i >= 0 and root[i] in writer)
            writer.update({root[out]: at for out in node.outputs if out >= 0})

    def add(self, edges: Iterable[tuple[int, int]]) -> None:
        """Let the first of each edge come before the second."""
        self._graph.add_edges_from(edges)

    def reaches(self, node: int, others: Set[int]) -> bool:
        """Whether one of `others` has to come after `node`."""
        return not others.isdisjoint(nx.descendants(self._graph, node))

    def order(self) -> list[int]:
        """The order closest to the given one that keeps to all edges."""
        return list(nx.lexicographical_topological_sort(self._graph, key=lambda at: at))
