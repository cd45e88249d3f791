"""A node with its tensors by index, and the layers that such nodes say they are in."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import onnx

from planc.graph.annotations import node_annotation


@dataclass(frozen=True, slots=True)
class Wired:
    """A node with the indices of the tensors that it reads and writes, -1 where an optional one is absent."""

    proto: onnx.NodeProto
    op_type: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def layer_runs(nodes: Sequence[Wired]) -> Iterator[tuple[tuple[str, str, str] | None, int, int]]:
    """Maximal runs of nodes with the same annotation, each with its first node and the one behind its last; a node without
    one is a run of its own."""
    at = 0
    for annotation, run in groupby(nodes, key=lambda node: node_annotation(node.proto)):
        end = at + len(list(run))
        step = 1 if annotation is None else end - at
        yield from ((annotation, start, start + step) for start in range(at, end, step))
        at = end
