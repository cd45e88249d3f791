"""Makes one Transpose of two: what moved the first way moves straight to its place."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import onnx

from planc.graph.annotations import node_annotation


@dataclass(frozen=True)
class _Moved:
    """What a Transpose reads, its permutation and its layer."""

    source: str
    perm: tuple[int, ...]
    group: tuple[str, str, str] | None


def join_transposes(nodes: Sequence[onnx.NodeProto], kept: Collection[str]) -> list[onnx.NodeProto]:
    """The nodes, where a Transpose of a Transpose of the same layer reads what that one reads, and two that undo each
    other are none; `kept` are read after the step.

    The first stays for its other readers; nodes that nothing reads are the caller's to drop.
    """
    moved: dict[str, _Moved] = {}
    same: dict[str, str] = {}
    viewed: dict[str, str] = {}
    found = []
    for node in nodes:
        if any(name in same for name in node.input):
            node = _reading(node, [same.get(name, name) for name in node.input])
        if node.op_type == "Reshape":  # a view of a view is one of what that one views
            viewed[node.output[0]] = source = viewed.get(node.input[0], node.input[0])
            node = node if source == node.input[0] else _reading(node, [source, *node.input[1:]])
        if node.op_type == "Transpose" and node.attribute:
            perm, source, made = tuple(node.attribute[0].ints), node.input[0], node.output[0]
            before, group = moved.get(source), node_annotation(node)
            if before is not None and before.group == group:
                source, perm = before.source, tuple(before.perm[axis] for axis in perm)
                if perm == tuple(range(len(perm))) and made not in kept:
                    same[made] = source
                    continue
                node = _reading(node, [source])
                node.attribute[0].ints[:] = perm
            moved[made] = _Moved(source, perm, group)
        found.append(node)
    return found


def _reading(node: onnx.NodeProto, inputs: Sequence[str]) -> onnx.NodeProto:
    """The node with other inputs."""
    again = onnx.NodeProto()
    again.CopyFrom(node)
    again.input[:] = inputs
    return again
