"""Finds RMS-norms that a forward model writes out and makes each one operator, for devices with kernels of planc's own.

    x / sqrt(mean(x^2) + epsilon) * scale  ->  RMSNormalization(x, scale)

over the last axis, with a reciprocal or a division, and with Pow or a product for the square, as exporters write it. What
does not fit is left as it is: values in between that somebody else reads, no scale, one of another shape.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from planc.kernels.source import C_TYPES
from planc.training.emit.builder import Var
from planc.training.prepare.finder import Finder
from planc.training.registry import attributes_of

OP_TYPE = "RMSNormalization"


@dataclass(frozen=True)
class _Site:
    """Nodes of one norm, its operands, result and epsilon."""

    nodes: tuple[onnx.NodeProto, ...]
    x: str
    scale: str
    output: str
    epsilon: float


def fuse_rms_norms(
    model: onnx.ModelProto, values: Mapping[str, Var], trained: Collection[str], wanted: Collection[str] = ()
) -> None:
    """Rewrite `model`, whose tensors are `values`, in place; those `wanted` stay."""
    work = _Norms(model.graph, values, trained, wanted)
    for node in work.nodes:
        site = work.site(node) if node.op_type == "Sqrt" else None
        if site is not None:
            work.rewrite(site)
    work.finish()


class _Norms(Finder):
    """Looks for a site around every square root of a graph."""

    def site(self, root: onnx.NodeProto) -> _Site | None:
        """The norm around a square root, None where there is none."""
        add = self.made_for(root.input[0], "Add")
        if add is None:
            return None
        epsilons = [n for n in map(self.number, add.input) if n is not None]
        means = [m for name in add.input if (m := self.made_for(name, "ReduceMean"))]
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
        last, scaled_by = scale
        nodes = (square, means[0], add, root, *inner, times, last)
        return _Site(nodes, x, scaled_by, last.output[0], epsilons[0])

    def _square(self, name: str) -> onnx.NodeProto | None:
        power = self.made_for(name, "Pow")
        if power is not None and self.number(power.input[1]) == 2:
            return power
        times = self.made_for(name, "Mul")
        return times if times is not None and times.input[0] == times.input[1] else None

    def _over_last(self, mean: onnx.NodeProto) -> bool:
        given = attributes_of(mean)
        axes = given.get("axes", self.ints(mean, 1))
        rank = self.values[mean.input[0]].rank
        return bool(given.get("keepdims", 1)) and axes is not None and [a % rank for a in axes] == [rank - 1]

    def _scaled(self, root: onnx.NodeProto, x: str) -> tuple[onnx.NodeProto, ...] | None:
        """From the root to the product of x with its reciprocal."""
        after = self.sole_reader(root.output[0])
        if after is None:
            return None
        if after.op_type == "Div" and list(after.input) == [x, root.output[0]]:
            return (after,)
        inverse = after.op_type == "Reciprocal" or (after.op_type == "Div" and self.number(after.input[0]) == 1)
        times = self.sole_reader(after.output[0], "Mul") if inverse else None
        return (after, times) if times is not None and set(times.input) == {x, after.output[0]} else None

    def _scale(self, normed: onnx.NodeProto, x: str) -> tuple[onnx.NodeProto, str] | None:
        """The product with the scale, and this; it must be of the shape of the last axis."""
        times = self.sole_reader(normed.output[0], "Mul")
        if times is None:
            return None
        others = [name for name in times.input if name != normed.output[0]]
        wanted = Var(others[0], self.values[x].shape[-1:], TensorProto.FLOAT) if len(others) == 1 else None
        known = wanted is not None and self.values[others[0]] == wanted and wanted.dtype in C_TYPES
        return (times, others[0]) if known else None

    def rewrite(self, site: _Site) -> None:
        """One node in the place of the site's."""
        self.replace(site.nodes, OP_TYPE, [site.x, site.scale], site.output, epsilon=site.epsilon, axis=-1)
