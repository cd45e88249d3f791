"""Finds rotary embeddings that a forward model writes out and makes each one operator, for devices with kernels of
planc's own.

    x cos + Concat(-x[h:], x[:h]) sin  ->  FusedRotary(x, cos, sin)

over the last axis of x, of 2 h columns, with constant angles; halves by Slice or Split. Casts of half precision around the
products belong to it, and the one behind the sum, a view in between or not: the result is rounded as it is written. What
does not fit, angles that are computed for one, is left as it is.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace

import onnx
from onnx import TensorProto

from planc.graph.operators import VIEWS
from planc.training.emit.builder import HALVES, Var
from planc.training.prepare.finder import Finder
from planc.training.registry import attributes_of

OP_TYPE = "FusedRotary"


def fuse_rotary(
    model: onnx.ModelProto, values: Mapping[str, Var], trained: Collection[str], wanted: Collection[str] = ()
) -> dict[str, Var]:
    """Rewrite `model`, whose tensors are `values`, in place; returns the tensors that it has now. Those `wanted` stay."""
    work = _Rotations(model.graph, values, trained, wanted)
    for concat in [node for node in work.nodes if node.op_type == "Concat"]:
        site = work.site(concat)
        if site is not None:
            work.rewrite(*site)
    work.finish()
    return work.values


Site = tuple[onnx.NodeProto, list[str]]
"""The last addition, and x, cos, sin."""


class _Rotations(Finder):
    """Looks for a site around every Concat of a graph."""

    def site(self, concat: onnx.NodeProto) -> Site | None:
        """The rotation whose turned half the Concat is."""
        x = self._turned(concat)
        times = None if x is None else self.sole_reader(self._widened(concat.output[0]), "Mul")
        add = None if times is None else self.sole_reader(times.output[0], "Add")
        if x is None or times is None or add is None:
            return None
        straight = [self.made_by(name, "Mul") for name in add.input if name != times.output[0]]
        if len(straight) != 1 or straight[0] is None:
            return None
        cosine, sine = self._angles(straight[0], x), self._angles(times, concat.output[0])
        fits = cosine is not None and sine is not None and self._alike(x, cosine, sine)
        return (add, [x, cosine, sine]) if fits and cosine is not None and sine is not None else None

    def _alike(self, x: str, cosine: str, sine: str) -> bool:
        """Whether the angles are float32 and of one shape, which broadcasts to that of x and has all its columns."""
        a, b, shape = self.values[cosine], self.values[sine], self.values[x].shape
        if a.shape != b.shape or a.shape[-1:] != shape[-1:] or a.rank > len(shape) or a.dtype != TensorProto.FLOAT:
            return False
        return all(size in (1, full) for size, full in zip(a.shape[::-1], shape[::-1], strict=False))

    def _turned(self, concat: onnx.NodeProto) -> str | None:
        """x where the Concat makes [-x's second half, x's first half]."""
        rank = self.values[concat.output[0]].rank
        if len(concat.input) != 2 or int(attributes_of(concat).get("axis", 0)) % max(1, rank) != rank - 1:
            return None
        negative = self.made_by(concat.input[0], "Neg")
        if negative is None:
            return None
        high, low = self._half(negative.input[0]), self._half(concat.input[1])
        fits = high is not None and low is not None and high[0] == low[0] and (low[1], high[1]) == (0, 1)
        return high[0] if fits and high is not None else None

    def _half(self, name: str) -> tuple[str, int] | None:
        """The tensor that `name` is half of, along its last axis, and which half."""
        node = self.made_by(name, "Slice", "Split")
        if node is None:
            return None
        x, made = self.values[node.input[0]], self.values[name]
        if not x.rank or made.shape != (*x.shape[:-1], x.shape[-1] // 2) or x.shape[-1] % 2:
            return None
        if node.op_type == "Split":
            return (node.input[0], list(node.output).index(name)) if len(node.output) == 2 else None
        start, axes, step = (self.ints(node, position) for position in (1, 3, 4))
        last = axes is not None and [axis % x.rank for axis in axes] == [x.rank - 1]
        known = {0: 0, x.shape[-1] // 2: 1, -(x.shape[-1] // 2): 1}
        if not last or start is None or start[0] not in known or (len(node.input) > 4 and step != [1]):
            return None
        return node.input[0], known[start[0]]

    def _widened(self, name: str) -> str:
        """The float32 copy of a half-precision tensor that nobody else reads; the tensor itself where there is none."""
        cast = self.sole_reader(name, "Cast") if self.values[name].dtype in HALVES else None
        return name if cast is None else cast.output[0]

    def _angles(self, times: onnx.NodeProto, factor: str) -> str | None:
        """The constant that a tensor, or its widened copy, is multiplied with."""
        others = [name for name in times.input if name not in (factor, *self._copies(factor))]
        return others[0] if len(others) == 1 and self.is_constant(others[0]) else None

    def _copies(self, name: str) -> list[str]:
        half = self.values[name].dtype in HALVES
        return [reader.output[0] for reader in self.readers[name] if half and reader.op_type == "Cast"]

    # --- rewriting

    def rewrite(self, add: onnx.NodeProto, operands: list[str]) -> None:
        """Put the operator in the place of the addition, and of the rounding behind it."""
        output = self._rounded(add, self.values[operands[0]].dtype)
        self.replace([add], OP_TYPE, operands, output, to=self.values[output].dtype)

    def _rounded(self, add: onnx.NodeProto, dtype: int) -> str:
        """The operator's output: the sum, or what a Cast to the type of x makes of it, views in between."""
        name, views = str(add.output[0]), list[onnx.NodeProto]()
        while view := self.sole_reader(name, *VIEWS):
            views.append(view)
            name = view.output[0]
        cast = self.sole_reader(name, "Cast")
        if cast is None or dtype not in HALVES or self.values[cast.output[0]].dtype != dtype:
            return str(add.output[0])
        self.drop([cast])
        for tensor in (add.output[0], *(view.output[0] for view in views)):
            self.values[tensor] = replace(self.values[tensor], dtype=dtype)
        if not views:
            return str(cast.output[0])
        views[-1].output[0] = cast.output[0]
        return str(add.output[0])
