"""Joins an output projection with the cross-entropy of its product, forward and backward, into one operator.

Logits and their gradients then never exist whole (`planc.kernels.linear_cross_entropy`). Loss and gradients are made in the
loss layer's backward phase, which nothing waits for: what was computed from the loss moves behind it.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import onnx

from planc.graph.annotations import annotate_like
from planc.graph.operators import VIEWS
from planc.kernels.cross_entropy import CROSS_ENTROPY, CROSS_ENTROPY_GRADIENT
from planc.kernels.linear_cross_entropy import LINEAR_CROSS_ENTROPY
from planc.training.emit.builder import HALVES, Builder, Var
from planc.training.layout.calls import emitted, is_call
from planc.training.registry import attributes_of

LEAST_BYTES = 32 << 20
"""Of all logits: smaller ones are not worth an operator of their own."""

Nodes = list[onnx.NodeProto]


def join_projections(b: Builder, nodes: Nodes, wanted: Collection[str]) -> Nodes:
    """The nodes, in which every such pattern of logits that only the loss reads is one operator."""
    for node in nodes:
        if is_call(node, CROSS_ENTROPY.name):
            pattern = _Reader(b, nodes, wanted).pattern(node)
            if pattern is not None:
                nodes = pattern.joined(b, nodes)
    return nodes


@dataclass(frozen=True)
class _Pattern:
    """The nodes that become one; `columns` tells the layout of the weight, `late` is what is computed from the loss."""

    loss: onnx.NodeProto
    gradient: onnx.NodeProto
    product: onnx.NodeProto
    dx: onnx.NodeProto
    dweight: onnx.NodeProto
    columns: bool
    late: Nodes
    widened: onnx.NodeProto | None
    """The Cast to float32 that alone reads the weight's gradient."""

    def joined(self, b: Builder, nodes: Nodes) -> Nodes:
        """All nodes, the pattern's replaced."""
        made = emitted(b, self.gradient, lambda: self._emit(b))
        for node in self.late:
            annotate_like(node, self.gradient)
        gone = {id(n) for n in (self.loss, self.gradient, self.product, self.dx, self.dweight, *self.late)}
        if self.widened is not None:
            gone.add(id(self.widened))
        result: Nodes = []
        for node in nodes:
            if node is self.gradient:
                result += [*made, *self.late]
            elif id(node) not in gone:
                result.append(node)
        return result

    def _emit(self, b: Builder) -> None:
        """The operator, and a rounded copy of the weight's gradient where somebody wants it in half precision."""
        x, weight = (b.values[name] for name in self.product.input[:2])
        labels, share = b.values[self.gradient.input[1]], b.values[self.gradient.input[3]]
        settings = {k: v for k, v in attributes_of(self.gradient).items() if k in ("ignored", "smoothing")}
        kept = b.values[self.dweight.output[0]]
        wide = self.widened.output[0] if self.widened is not None else kept.name
        rounds = self.widened is None and kept.dtype in HALVES
        names = [self.loss.output[0], self.dx.output[0], None if rounds else wide]
        operands = [b.reshape(x, b.values[self.dx.output[0]].shape), weight, labels, share]
        made = b.kernel(LINEAR_CROSS_ENTROPY, operands, names=names, columns=int(self.columns), **settings)
        if rounds:
            b.cast(made[2], kept.dtype, name=kept.name)


class _Reader:
    """Looks for the pattern around a loss."""

    def __init__(self, b: Builder, nodes: Nodes, wanted: Collection[str]) -> None:
        self.b, self.nodes = b, nodes
        self.maker = {o: node for node in nodes for o in node.output if o}
        self.uses = Counter(self._root(name) for node in nodes for name in node.input if not self._is_view(node))
        self.uses.update(self._root(name) for name in wanted)

    @staticmethod
    def _is_view(node: onnx.NodeProto) -> bool:
        return node.domain in ("", "ai.onnx") and node.op_type in VIEWS

    def _root(self, name: str) -> str:
        """The tensor that `name` is a view of."""
        while name in self.maker and self._is_view(self.maker[name]):
            name = self.maker[name].input[0]
        return name

    def pattern(self, loss: onnx.NodeProto) -> _Pattern | None:
        """The nodes around a loss, None where they are not the pattern."""
        logits = self._root(loss.input[0])
        product = self.maker.get(logits)
        gradient = next(
            (n for n in self.nodes if is_call(n, CROSS_ENTROPY_GRADIENT.name) and self._is_of(n, loss)), None
        )
        if product is None or gradient is None or self.uses[logits] != 2 or self.uses[loss.output[1]] != 1:
            return None
        columns, slope = self._columns(product), self._root(gradient.output[0])
        if columns is None or self.uses[slope] != 2 or self._bytes(logits) < LEAST_BYTES:
            return None
        readers = [n for n in self.nodes if any(self._root(i) == slope for i in n.input) and not self._is_view(n)]
        dx = next((n for n in readers if self._is_dx(n, product, slope, columns)), None)
        dweight = next((n for n in readers if self._is_dweight(n, product, slope, columns)), None)
        late = self._depending_on(loss.output[0])
        if dx is None or dweight is None or any(n in late for n in (gradient, dx, dweight)):
            return None
        if not self._comes_first(gradient.input[3], late):
            return None
        return _Pattern(loss, gradient, product, dx, dweight, columns, late, self._widened(dweight.output[0]))

    def _is_of(self, gradient: onnx.NodeProto, loss: onnx.NodeProto) -> bool:
        """Whether a gradient belongs to a loss: of the same logits, by the same statistics."""
        return gradient.input[2] == loss.output[1] and self._root(gradient.input[0]) == self._root(loss.input[0])

    def _bytes(self, name: str) -> int:
        value = self.b.values[name]
        return value.size * (2 if value.dtype in HALVES else 4)

    def _value(self, name: str) -> Var:
        return self.b.values[name]

    def _columns(self, product: onnx.NodeProto) -> bool | None:
        """Whether the weight is [D, V]; None where the product is none of rows with a weight alone."""
        if product.op_type not in ("MatMul", "Gemm") or self._value(product.input[1]).rank != 2:
            return None
        if product.op_type == "MatMul":
            return True
        given = attributes_of(product)
        plain = len(product.input) == 2 and not given.get("transA", 0) and given.get("alpha", 1.0) == 1.0
        return not given.get("transB", 0) if plain else None

    def _is_dx(self, node: onnx.NodeProto, product: onnx.NodeProto, slope: str, columns: bool) -> bool:
        """dX = dlogits W, or times its transposed."""
        sides = _gemm(node)
        if (
            sides is None
            or self._root(node.input[0]) != slope
            or self._root(node.input[1]) != self._root(product.input[1])
        ):
            return False
        return sides == (False, columns)

    def _is_dweight(self, node: onnx.NodeProto, product: onnx.NodeProto, slope: str, columns: bool) -> bool:
        """dW = dlogits^T X, or its transposed, X^T dlogits."""
        sides, x = _gemm(node), self._root(product.input[0])
        operands = [self._root(name) for name in node.input[:2]]
        return sides == (True, False) and operands == ([x, slope] if columns else [slope, x])

    def _depending_on(self, name: str) -> Nodes:
        """What is computed from a tensor, in order."""
        known, found = {name}, []
        for node in self.nodes:
            if known & {*node.input}:
                known.update(node.output)
                found.append(node)
        return found

    def _comes_first(self, name: str, late: Sequence[onnx.NodeProto]) -> bool:
        """Whether a tensor is made without what is computed from the loss."""
        return not any(name in node.output for node in late)

    def _widened(self, name: str) -> onnx.NodeProto | None:
        """The only reader of a tensor, where that is a Cast from half precision to float32."""
        readers = [node for node in self.nodes if name in node.input]
        if len(readers) != 1 or readers[0].op_type != "Cast" or self._value(name).dtype not in HALVES:
            return None
        made = self._value(readers[0].output[0])
        return readers[0] if made.dtype not in HALVES and made.shape == self._value(name).shape else None


def _gemm(node: onnx.NodeProto) -> tuple[bool, bool] | None:
    """The transpositions of a Gemm of two operands and nothing else, None for any other node."""
    given = attributes_of(node)
    if node.op_type != "Gemm" or len(node.input) != 2 or given.get("alpha", 1.0) != 1.0:
        return None
    return bool(given.get("transA", 0)), bool(given.get("transB", 0))
