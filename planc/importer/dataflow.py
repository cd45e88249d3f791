"""The dataflow between nodes as a graph, for the few models whose nodes need another order."""

from collections.abc import Iterable, Sequence

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

    def reaches(self, node: int, others: Iterable[int]) -> bool:
        """Whether one of `others` depends on `node`."""
        return any(nx.has_path(self._graph, node, other) for other in others)

    def order(self, edges: Iterable[tuple[int, int]]) -> list[int]:
        """The order closest to the given one in which the first of each edge comes before the second."""
        self._graph.add_edges_from(edges)
        return list(nx.lexicographical_topological_sort(self._graph, key=lambda at: at))
