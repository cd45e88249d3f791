"""Puts other nodes into an ONNX graph."""

from collections.abc import Iterable

import onnx


def replace_nodes(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Let the graph have copies of `nodes` instead of its own, which may be among them."""
    listed = list(nodes)
    del graph.node[:]
    graph.node.extend(listed)
