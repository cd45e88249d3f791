"""Half-precision gradients are widened inside the updates that read them, not before.

A parameter's gradient comes in bfloat16 or float16 where its product ran in that type, and its update computes in
float32. The Cast between them belongs to the backward phase and would be a pass of its own: 6 bytes of traffic for an
element, and 4 more that wait for the update. In the update's layer it is part of the update's kernel.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence

import onnx
from onnx import TensorProto

from planc.graph.annotations import node_annotation
from planc.training.emit.builder import HALVES, Builder
from planc.training.layout.readers import read_made_again, readers_of


def widen_in_updates(b: Builder, nodes: Sequence[onnx.NodeProto], kept: Collection[str]) -> list[onnx.NodeProto]:
    """The nodes, every widening Cast that only updates read once in each layer that reads it; `kept` stay."""
    readers = readers_of(nodes)
    before: defaultdict[int, list[onnx.NodeProto]] = defaultdict(list)
    gone: set[int] = set()
    for at, node in enumerate(nodes):
        if _widens(b, node) and node.output[0] not in kept and _only_updates(nodes, readers[node.output[0]]):
            gone.add(at)
            _widen(b, nodes, node, readers[node.output[0]], before)
    return [made for at, node in enumerate(nodes) for made in (*before[at], *([] if at in gone else [node]))]


def _widens(b: Builder, node: onnx.NodeProto) -> bool:
    cast = node.op_type == "Cast" and not node.domain
    return cast and b.values[node.input[0]].dtype in HALVES and b.values[node.output[0]].dtype == TensorProto.FLOAT


def _only_updates(nodes: Sequence[onnx.NodeProto], readers: Sequence[int]) -> bool:
    annotations = [node_annotation(nodes[at]) for at in readers]
    return bool(readers) and all(found is not None and found[2] == "update" for found in annotations)


def _widen(
    b: Builder, nodes: Sequence[onnx.NodeProto], cast: onnx.NodeProto, readers: Sequence[int],
    before: defaultdict[int, list[onnx.NodeProto]],
) -> None:  # fmt: skip
    """A Cast of its own for every layer that reads the result."""
    half, readings = b.values[cast.input[0]], [(at, cast.output[0]) for at in readers]
    read_made_again(b, nodes, readings, lambda _: b.wide(half), before)
