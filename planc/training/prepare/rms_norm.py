"""Finds RMS-norms that a forward model writes out and makes each one operator, for devices with kernels of planc's own.

    x / sqrt(mean(x^2) + epsilon) * scale  ->  RMSNormalization(x, scale)

over the last axis, with a reciprocal or a division, and with Pow or a product for the square, as exporters write it. What
does not fit is left as it is: values in between that somebody else reads, no scale, one of another shape.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from planc.graph.annotations import annotate_node, node_annotation
from planc.kernels.source import C_TYPES
from planc.training.emit.builder import Var

OP_TYPE = "RMSNormalization"


@dataclass(frozen=True)
class _Site:
    """Nodes of one norm, the last of them last, its operands and epsilon."""

    nodes: tuple[onnx.NodeProto, ...]
    x: str
    scale: str
    epsilon: float


def fuse_rms_norms(
    model: onnx.ModelProto, values: Mapping[str, Var], trained: Collection[str], wanted: Collection[str] = ()
) -> None:
    """Rewrite `model`, whose tensors are `values`, in place; those `wanted` stay."""
    work = _Finder(model.graph, values, trained, wanted)
    made: dict[int, onnx.NodeProto] = {}
    gone: set[int] = set()
    for node in work.nodes:
        site = work.site(node) if node.op_type == "Sqrt" else None
        if site is not None:
            gone.update(map(id, site.nodes))
            made[id(site.nodes[-1])] = _norm(site)
    nodes = [made.get(id(n), n) for n in work.nodes if id(n) not in gone or id(n) in made]
    if made:
        nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
        del model.graph.node[:]
        model.graph.node.extend(nodes)


def _norm(site: _Site) -> onnx.NodeProto:
    last = site.nodes[-1]
    node = helper.make_node(OP_TYPE, [site.x, site.scale], list(last.output), last.name, epsilon=site.epsilon, axis=-1)
    found = node_annotation(last)
    if found is not None:
        annotate_node(node, *found)
    return node


class _Finder:
    """Looks for a site around every square root of a graph."""

    def __init__(
        self, graph: onnx.GraphProto, values: Mapping[str, Var], trained: Collection[str], wanted: Collection[str]
    ) -> None:
        self.values, self.nodes = values, list(graph.node)
        self.maker = {name: node for node in self.nodes for name in node.output}
        self.readers: defaultdict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in node.input:
                self.readers[name].append(node)
        self.outputs = {info.name for info in graph.output} | set(wanted)
        self.constants = {t.name: t for t in graph.initializer if t.name not in trained}

    def _number(self, name: str) -> float | None:
        tensor = self.constants.get(name)
        value = None if tensor is None else numpy_helper.to_array(tensor)
        return None if value is None or value.size != 1 else float(value.reshape(-1)[0])

    def _made_for(self, name: str, op_type: str) -> onnx.NodeProto | None:
        """The node that makes a tensor which only one node reads."""
        node = self.maker.get(name)
        alone = len(self.readers[name]) == 1 and name not in self.outputs
        return node if node is not None and node.op_type == op_type and alone else None

    def _sole_reader(self, name: str) -> onnx.NodeProto | None:
        readers = self.readers[name]
        return readers[0] if len(readers) == 1 and name not in self.outputs else None

    def site(self, root: onnx.NodeProto) -> _Site | None:
        """The norm around a square root, None where there is none."""
        add = self._made_for(root.input[0], "Add")
        if add is None:
            return None
        epsilons = [n for n in map(self._number, add.input) if n is not None]
        means = [m for name in add.input if (m := self._made_for(name, "ReduceMean"))]
        if len(epsilons) != 1 or len(means) != 1 or not self._over_last(means[0]):
            return None
        square = self._square(means[0].input[0])
        x = "" if square is None else square.input[0]
        behind = self._scaled(root, x)
        if square is None or behind is None or self.values[x].dtype != TensorProto.FLOAT:
            return None
        *inner, times = behind
        scale = self._scale(times, x)
        if scale is None:
            return None
        return _Site((square, means[0], add, root, *inner, times, scale[0]), x, scale[1], epsilons[0])

    def _square(self, name: str) -> onnx.NodeProto | None:
        power = self._made_for(name, "Pow")
        if power is not None and self._number(power.input[1]) == 2:
            return power
        maker = self.maker.get(name)
        twice = maker is not None and maker.op_type == "Mul" and maker.input[0] == maker.input[1]
        return maker if twice and len(self.readers[name]) == 1 and name not in self.outputs else None

    def _over_last(self, mean: onnx.NodeProto) -> bool:
        given = {a.name: helper.get_attribute_value(a) for a in mean.attribute}
        axes = given.get("axes")
        if axes is None and len(mean.input) > 1 and mean.input[1] in self.constants:
            axes = np.ravel(numpy_helper.to_array(self.constants[mean.input[1]])).tolist()
        rank = self.values[mean.input[0]].rank
        return bool(given.get("keepdims", 1)) and axes is not None and [a % rank for a in axes] == [rank - 1]

    def _scaled(self, root: onnx.NodeProto, x: str) -> tuple[onnx.NodeProto, ...] | None:
        """From the root to the product of x with its reciprocal."""
        after = self._sole_reader(root.output[0])
        if after is None:
            return None
        if after.op_type == "Div" and list(after.input) == [x, root.output[0]]:
            return (after,)
        inverse = after.op_type == "Reciprocal" or (after.op_type == "Div" and self._number(after.input[0]) == 1)
        times = self._sole_reader(after.output[0]) if inverse else None
        fits = times is not None and times.op_type == "Mul" and set(times.input) == {x, after.output[0]}
        return (after, times) if fits and times is not None else None

    def _scale(self, normed: onnx.NodeProto, x: str) -> tuple[onnx.NodeProto, str] | None:
        """The product with the scale, and this; it must be of the shape of the last axis."""
        times = self._sole_reader(normed.output[0])
        if times is None or times.op_type != "Mul":
            return None
        others = [name for name in times.input if name != normed.output[0]]
        wanted = Var(others[0], self.values[x].shape[-1:], TensorProto.FLOAT) if len(others) == 1 else None
        known = wanted is not None and self.values[others[0]] == wanted and wanted.dtype in C_TYPES
        return (times, others[0]) if known else None
