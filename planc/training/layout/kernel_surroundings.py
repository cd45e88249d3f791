"""Casts around layer- and RMS-norms, and additions behind gradients, join them: each saves a pass.

    Cast(norm(x)) to a half               ->  the norm writes the half; its float32 result never exists
    norm'(Cast(dy), ...)                  ->  the gradient reads the half
    norm(Cast(x)), norm'(dy, Cast(x))     ->  both read the half, and dx is made in it where it would be cast to it
    norm'(dy, ...) + a                    ->  the gradient adds what reaches x by a residual
    embedding'(ids, dy) + a               ->  the rows are added to what reaches the table as a projection's weight

The residual's own addition in front of a norm stays apart: joined, the normalised rows could not be computed again from
the sum alone, which is kept anyway, and a small budget wants that.
"""

from collections.abc import Sequence

import onnx
from onnx import TensorProto

from planc.kernels.embedding_gradient import EMBEDDING_GRADIENT
from planc.kernels.layer_norm import LAYER_NORM, LAYER_NORM_GRADIENT
from planc.training.emit.builder import HALVES, Builder
from planc.training.layout.calls import called, is_call
from planc.training.layout.readers import read_instead, readers_of
from planc.training.registry import attributes_of


def join_surroundings(b: Builder, nodes: Sequence[onnx.NodeProto], kept: set[str]) -> list[onnx.NodeProto]:
    """The nodes, those around norms and embeddings joined; `kept` are tensors that are read after the step."""
    work = _Joiner(b, list(nodes), kept)
    for position, node in enumerate(nodes):
        if is_call(node, LAYER_NORM.name):
            work.forward(position)
        elif is_call(node, LAYER_NORM_GRADIENT.name):
            work.gradient(position)
        elif is_call(node, EMBEDDING_GRADIENT.name):
            work.embedding(position)
    return work.result()


class _Joiner:
    """Rewrites the calls of a step one by one; nodes that go are None."""

    def __init__(self, b: Builder, nodes: list[onnx.NodeProto], kept: set[str]) -> None:
        self.b, self.kept = b, kept
        self.nodes: list[onnx.NodeProto | None] = list(nodes)
        self.maker = {name: at for at, node in enumerate(nodes) for name in node.output if name}
        self.readers = readers_of(nodes)
        self.renamed: dict[str, str] = {}

    def result(self) -> list[onnx.NodeProto]:
        """All nodes as they are now, tensors that became one under one name."""
        left = [node for node in self.nodes if node is not None]
        for node in left:
            read_instead(node, self.renamed)
        return left

    def _node(self, at: int) -> onnx.NodeProto:
        node = self.nodes[at]
        return node if node is not None else onnx.NodeProto()

    def _replace(self, at: int, node: onnx.NodeProto) -> None:
        """Put another node at a position: readers and makers follow."""
        for name in dict.fromkeys(self._node(at).input):
            self.readers[name].remove(at)
        for name in dict.fromkeys(node.input):
            self.readers[name].append(at)
        self.maker.update(dict.fromkeys(node.output, at))
        self.nodes[at] = node

    def _drop(self, at: int) -> None:
        for name in dict.fromkeys(self._node(at).input):
            self.readers[name].remove(at)
        self.nodes[at] = None

    def _half_before(self, name: str) -> str:
        """The half that a tensor is a widened copy of; the tensor itself where it is none."""
        node = self._node(self.maker[name]) if name in self.maker else onnx.NodeProto()
        source = node.input[0] if node.op_type == "Cast" else name
        widens = self.b.values[source].dtype in HALVES and self.b.values[name].dtype == TensorProto.FLOAT
        return source if widens else name

    # --- forward

    def forward(self, at: int) -> None:
        """Read x before a widening, write what casts make of the result."""
        node = self._node(at)
        outputs, x = list(node.output), self._half_before(node.input[0])
        casts, y = self._casts(outputs[0]), outputs[0]
        to = self.b.values[y].dtype
        if casts:
            y, *others = (self._node(cast).output[0] for cast in casts)
            to = self.b.values[y].dtype
            self.renamed.update(dict.fromkeys(others, y))
            for cast in casts:
                self._drop(cast)
        if not casts and x == node.input[0]:
            return
        given = {**attributes_of(node), "to": 0 if to == self.b.values[x].dtype else to}
        made = called(self.b, LAYER_NORM, node, [x, *node.input[1:]], [y, *outputs[1:]], **given)
        self._replace(at, made[0])

    def _casts(self, y: str) -> list[int]:
        """The nodes that read `y`, all of them casts to one half type that only the step itself reads; else none."""
        readers = self.readers[y]
        if y in self.kept or not all(self._node(r).op_type == "Cast" for r in readers):
            return []
        made = [self._node(r).output[0] for r in readers]
        types = {self.b.values[name].dtype for name in made}
        alike = len(types) == 1 and types <= HALVES and self.b.values[y].dtype == TensorProto.FLOAT
        return list(readers) if alike and self.kept.isdisjoint(made[1:]) else []

    # --- gradient

    def gradient(self, at: int) -> None:
        """Read dy and x before their widenings, add what is added behind."""
        node = self._node(at)
        dy, x, *rest = node.input
        dx, outputs = node.output[0], list(node.output)
        dy = self._half_before(dy)
        half = self._half_before(x)
        narrowing = self._sole_reader(dx, "Cast") if half != x else None
        if narrowing is not None and self.b.values[self._node(narrowing).output[0]].dtype == self.b.values[half].dtype:
            x, dx = half, self._node(narrowing).output[0]
            self._drop(narrowing)
        addend = self._addend(at, dx)
        if addend is not None:
            add, other = addend
            rest, dx = [*rest, other], self._node(add).output[0]
            self._drop(add)
        if [dy, x, dx] != [*node.input[:2], outputs[0]]:
            made = called(self.b, LAYER_NORM_GRADIENT, node, [dy, x, *rest], [dx, *outputs[1:]], **attributes_of(node))
            self._replace(at, made[0])

    def embedding(self, at: int) -> None:
        """Add the rows to what is added to them."""
        node = self._node(at)
        addend = self._addend(at, node.output[0]) if len(node.input) == 2 else None
        if addend is not None:
            add, base = addend
            dtable = self._node(add).output[0]
            self._drop(add)
            made = called(self.b, EMBEDDING_GRADIENT, node, [*node.input, base], [dtable], **attributes_of(node))
            self._replace(at, made[0])

    def _sole_reader(self, name: str, op_type: str) -> int | None:
        readers = self.readers[name]
        alone = len(readers) == 1 and name not in self.kept and self._node(readers[0]).op_type == op_type
        return readers[0] if alone else None

    def _addend(self, at: int, dx: str) -> tuple[int, str] | None:
        """The addition that alone reads `dx`, and what else it reads, where that is made before the position."""
        add = self._sole_reader(dx, "Add")
        others = [] if add is None else [name for name in self._node(add).input if name != dx]
        if add is None or len(others) != 1 or self.maker.get(others[0], -1) >= at:
            return None
        same = (self.b.values[name].shape for name in (others[0], dx))
        fits = len(set(same)) == 1 and self.b.values[others[0]].dtype == self.b.values[dx].dtype
        return (add, others[0]) if fits else None
