"""ReLUs, and additions with the ReLU behind them, join the batch-norms before them: forward and backward.

    y = relu(bn(x) [+ r])      ->  BatchNorm(x, scale, bias[, r]) with `relu`
    dy where y > 0, then bn'   ->  BatchNormGradient(dy, x, ..., [y]) with `relu`, which also gives r's gradient

Both sides are rewritten, or neither. A norm in front of an addition takes the addition's place, since what is added must be
there; what reads the norm's statistics follows it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import onnx

from planc.graph.annotations import node_annotation
from planc.kernels.batch_norm import BATCH_NORM, BATCH_NORM_GRADIENT
from planc.training.emit.builder import Builder
from planc.training.layout.calls import called, is_call
from planc.training.layout.readers import readers_of


@dataclass(frozen=True)
class _Site:
    """Nodes of one batch-norm with what is behind it, by their positions."""

    norm: int
    gradient: int
    add: int | None
    relu: int
    mask: tuple[int, int, int]
    """Greater, Cast and Mul of the ReLU's gradient."""


def join_activations(b: Builder, nodes: Sequence[onnx.NodeProto], kept: set[str]) -> list[onnx.NodeProto]:
    """The nodes, activations joined to norms; `kept` are tensors that are read after the step."""
    work = _Joiner(b, list(nodes), kept)
    taken: set[int] = set()
    for position in reversed(range(len(nodes))):
        site = work.site(position) if is_call(nodes[position], BATCH_NORM.name) else None
        if site is not None and taken.isdisjoint(work.positions(site)):
            work.join(site)
            taken.update(work.positions(site))
    return _ordered(work.result()) if taken else list(nodes)


class _Joiner:
    """Finds and rewrites the sites of a step."""

    def __init__(self, b: Builder, nodes: list[onnx.NodeProto], kept: set[str]) -> None:
        self.b, self.nodes, self.kept = b, nodes, kept
        self.readers = readers_of(nodes)
        self.made: dict[int, list[onnx.NodeProto]] = {}

    def positions(self, site: _Site) -> list[int]:
        """Of all nodes that the site takes away."""
        added = [] if site.add is None else [site.add]
        return [site.norm, site.gradient, site.relu, *site.mask, *added]

    def site(self, norm: int) -> _Site | None:
        """What is behind the batch-norm at a position, None where it cannot be joined."""
        y, x = self.nodes[norm].output[0], self.nodes[norm].input[0]
        behind = self._sole_reader(y)
        if behind is None or len(self.nodes[norm].input) != 3:
            return None
        add = behind if self.nodes[behind].op_type == "Add" else None
        if add is not None:
            shapes = {self.b.values[name].shape for name in self.nodes[add].input}
            behind = self._sole_reader(self.nodes[add].output[0]) if len(shapes) == 1 else None
            if behind is None or len(set(self.nodes[add].input)) != 2:
                return None
        if self.nodes[behind].op_type != "Relu":
            return None
        found = self._mask_of(self.nodes[behind].output[0])
        if found is None:
            return None
        masked = self.nodes[found[2]].output[0]
        gradients = [
            r for r in self.readers[masked]
            if is_call(self.nodes[r], BATCH_NORM_GRADIENT.name)
            and self.nodes[r].input[0] == masked and self.nodes[r].input[1] == x
        ]  # fmt: skip
        alone = add is not None or (len(self.readers[masked]) == 1 and masked not in self.kept)
        if len(gradients) != 1 or not alone or len(self.nodes[gradients[0]].input) != 6:
            return None
        return _Site(norm, gradients[0], add, behind, found)

    def _sole_reader(self, name: str) -> int | None:
        readers = self.readers[name]
        return readers[0] if len(readers) == 1 and name not in self.kept else None

    def _mask_of(self, y: str) -> tuple[int, int, int] | None:
        """Greater(y, 0), its Cast, and the Mul of the gradient by that."""
        for greater in self.readers[y]:
            node = self.nodes[greater]
            if (
                node.op_type != "Greater"
                or node.input[0] != y
                or self.b.known_scalar(self.b.values[node.input[1]]) != 0
            ):
                continue
            cast = self._sole_reader(node.output[0])
            times = (
                None
                if cast is None or self.nodes[cast].op_type != "Cast"
                else self._sole_reader(self.nodes[cast].output[0])
            )
            if cast is not None and times is not None and self.nodes[times].op_type == "Mul":
                return greater, cast, times
        return None

    def join(self, site: _Site) -> None:
        """Put the joined operators in the place of the site's last forward node and of the masked gradient."""
        norm, gradient, relu = (self.nodes[i] for i in (site.norm, site.gradient, site.relu))
        times, cast = self.nodes[site.mask[2]], self.nodes[site.mask[1]]
        (dy,) = (name for name in times.input if name != cast.output[0])
        epsilon = next(a.f for a in norm.attribute if a.name == "epsilon")
        residual = [] if site.add is None else [n for n in self.nodes[site.add].input if n != norm.output[0]]
        self.made[site.relu] = called(
            self.b, BATCH_NORM, relu, [*norm.input, *residual], [relu.output[0], *norm.output[1:]],
            epsilon=epsilon, relu=1,
        )  # fmt: skip
        y = [relu.output[0]] if residual else []
        outputs = [*gradient.output, *([times.output[0]] if residual else [])]
        operands = [dy, *gradient.input[1:], *y]
        self.made[site.mask[2]] = called(self.b, BATCH_NORM_GRADIENT, times, operands, outputs, epsilon=epsilon, relu=1)
        for gone in self.positions(site):
            self.made.setdefault(gone, [])

    def result(self) -> list[onnx.NodeProto]:
        """All nodes as they are now."""
        return [made for i, node in enumerate(self.nodes) for made in self.made.get(i, [node])]


def _ordered(nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """The nodes, groups of one layer and phase put off until what they read is made."""
    made_by = {name for node in nodes for name in node.output if name}
    known: set[str] = set()
    waiting: list[list[onnx.NodeProto]] = []
    result: list[onnx.NodeProto] = []

    def take(group: list[onnx.NodeProto]) -> bool:
        inside = {name for node in group for name in node.output}
        if any(name in made_by and name not in known and name not in inside for node in group for name in node.input):
            return False
        result.extend(group)
        known.update(inside)
        return True

    for _, run in groupby(nodes, key=node_annotation):
        group = list(run)
        if not take(group):
            waiting.append(group)
            continue
        waiting = [other for other in waiting if not take(other)]
    for group in waiting:
        result.extend(group)
    return result
