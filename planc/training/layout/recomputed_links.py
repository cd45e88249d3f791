"""Links of a forward chain that backward chains read are computed again there, where all that they need is read anyway.

The gradient of silu(gate) up, say, reads sigmoid(gate) and silu(gate) beside gate and up. Kept, the two take as many bytes
as gate and up, from the forward to the backward pass, and four passes over memory; computed again in the chain that has
gate in registers, they take nothing. A tensor goes this way if every other reader is a link of its own layer, and every
backward reader has the inputs of its whole recomputation: tensors that the same layer's chain reads for other reasons, or
scalars. So no plan has to choose, and no tensor lives longer for it.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence

import onnx

from planc.graph.annotations import node_annotation
from planc.graph.operators import VIEWS
from planc.training.emit.builder import Builder, Shape, Var
from planc.training.layout.calls import emitted
from planc.training.layout.chains import is_link
from planc.training.layout.readers import read_instead, readers_of
from planc.training.registry import attributes_of

DEEPEST = 8
"""Links of one recomputation, one behind the other."""

Layer = tuple[str, str, str]


def recompute_links(b: Builder, nodes: Sequence[onnx.NodeProto], kept: Collection[str]) -> list[onnx.NodeProto]:
    """The nodes, such links written again into the layers that read them; `kept` are tensors read after the step."""
    work = _Links(b, nodes, kept)
    before: defaultdict[int, list[onnx.NodeProto]] = defaultdict(list)
    for name in [node.output[0] for node in nodes if work.is_forward_link(node)]:
        readers = work.backward_readers(name)
        if readers and all(work.has_inputs(name, work.layer[at]) for at in readers):
            work.rewrite(name, readers, before)
    return [made for at, node in enumerate(nodes) for made in (*before[at], node)]


class _Links:
    """The step's nodes with their layers; `maker` and `readers` go by tensor, `again` are recomputed tensors by layer,
    `first` is the first link of each layer."""

    def __init__(self, b: Builder, nodes: Sequence[onnx.NodeProto], kept: Collection[str]) -> None:
        self.b, self.nodes, self.kept = b, nodes, kept
        self.layer: list[Layer] = [node_annotation(node) or ("", "", "") for node in nodes]
        self.link = [is_link(b, node) for node in nodes]
        self.maker = {name: at for at, node in enumerate(nodes) for name in node.output if name}
        self.readers = readers_of(nodes)
        self.read_in: defaultdict[Layer, dict[tuple[str, Shape], str]] = defaultdict(dict)
        for at, node in enumerate(nodes):
            if self.link[at]:
                self.read_in[self.layer[at]] |= {self._place(name): name for name in node.input}
        self.again: dict[tuple[Layer, str], str] = {}
        self.first: dict[Layer, int] = {}
        for at in reversed(range(len(nodes))):
            if self.link[at]:
                self.first[self.layer[at]] = at

    def _place(self, name: str) -> tuple[str, Shape]:
        """Equal for tensors with the same bytes and shape: views of one tensor."""
        root = name
        while root in self.maker and self.nodes[self.maker[root]].op_type in VIEWS:
            root = self.nodes[self.maker[root]].input[0]
        return root, self.b.values[name].shape

    def is_forward_link(self, node: onnx.NodeProto) -> bool:
        at = self.maker.get(node.output[0], -1) if node.output else -1
        return at >= 0 and self.link[at] and self.layer[at][2] == "forward" and node.output[0] not in self.kept

    def backward_readers(self, name: str) -> list[int]:
        """The links of backward layers that read a tensor; none if something else than these and its own layer's links
        does, or reads it as another shape."""
        home, shape, found = self.layer[self.maker[name]], self.b.values[name].shape, []
        for at in self.readers[name]:
            if not self.link[at] or self.b.values[self.nodes[at].output[0]].shape != shape:
                return []
            if self.layer[at][2] == "backward":
                found.append(at)
            elif self.layer[at] != home:
                return []
        return found

    def has_inputs(self, name: str, layer: Layer, depth: int = 0) -> bool:
        """Whether a layer's chain reads, for other reasons, all that computing the tensor again needs."""
        at = self.maker.get(name, -1)
        if at < 0 or not self.link[at] or self.layer[at][2] != "forward":
            there = at >= 0 and self.b.values[name].size > 1 and self._place(name) in self.read_in[layer]
            return there or (at < 0 and self.b.values[name].size == 1)
        shape, inputs = self.b.values[name].shape, self.nodes[at].input
        alike = all(self.b.values[i].shape == shape or self.b.values[i].size == 1 for i in inputs)
        return alike and depth < DEEPEST and all(self.has_inputs(i, layer, depth + 1) for i in inputs)

    def rewrite(self, name: str, readers: Sequence[int], before: dict[int, list[onnx.NodeProto]]) -> None:
        """Let every reader read what its layer computes again, in front of the first that does."""
        for at in readers:
            read_instead(self.nodes[at], {name: self._computed(name, self.layer[at], before)})

    def _computed(self, name: str, layer: Layer, before: dict[int, list[onnx.NodeProto]]) -> str:
        """The tensor's name in a layer: computed there, or, where it is no forward link, as what the layer reads anyway."""
        maker = self.maker.get(name, -1)
        if maker < 0 or not self.link[maker] or self.layer[maker][2] != "forward":
            return self.read_in[layer].get(self._place(name), name)
        if (layer, name) not in self.again:
            node, like, first = self.nodes[maker], self.b.values[name], self.first[layer]
            inputs = [self.b.values[self._computed(i, layer, before)] for i in node.input]
            made = emitted(self.b, self.nodes[first], lambda: self._copy(node, inputs, like.dtype))
            before[first] += made
            self.again[layer, name] = made[-1].output[0]
        return self.again[layer, name]

    def _copy(self, node: onnx.NodeProto, inputs: Sequence[Var], dtype: int) -> None:
        self.b.op(node.op_type, inputs, self.b.values[node.output[0]].shape, dtype, **attributes_of(node))
