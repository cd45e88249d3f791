"""Who reads which tensor among the nodes of a step, and how readers are brought to read another."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import onnx

from planc.graph.annotations import node_annotation
from planc.training.emit.builder import Builder, Var
from planc.training.layout.calls import emitted

Reading = tuple[int, str]
"""A node's position, and a tensor that it reads."""


def readers_of(nodes: Sequence[onnx.NodeProto]) -> defaultdict[str, list[int]]:
    """By tensor: the positions of the nodes that read it, in order, each once."""
    readers: defaultdict[str, list[int]] = defaultdict(list)
    for at, node in enumerate(nodes):
        for name in dict.fromkeys(node.input):
            readers[name].append(at)
    return readers


def read_instead(node: onnx.NodeProto, instead: Mapping[str, str]) -> None:
    """Let the node read, for each tensor that is a key, the one of that name."""
    for position, name in enumerate(node.input):
        if name in instead:
            node.input[position] = instead[name]


def read_made_again(
    b: Builder, nodes: Sequence[onnx.NodeProto], readings: Iterable[Reading], make: Callable[[Var], Var],
    before: defaultdict[int, list[onnx.NodeProto]],
) -> None:  # fmt: skip
    """Let every layer that reads a tensor by one of `readings` read what it makes itself in its place.

    `make` emits that, given the tensor; the nodes come `before` the layer's first reader, by its position.
    """
    made: dict[tuple[object, str], str] = {}
    for at, read in sorted(readings):
        place = (node_annotation(nodes[at]), read)
        if place not in made:
            new = emitted(b, nodes[at], partial(make, b.values[read]))
            made[place] = new[-1].output[0]
            before[at].extend(new)
        read_instead(nodes[at], {read: made[place]})
