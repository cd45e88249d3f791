"""The vocabulary of rules: arithmetic, reductions, shapes and products, each one node of known static shape.

Every helper returns a `Var` with its concrete shape and dtype, so that rules can use sizes. Helpers leave out what would
be redundant: a Reshape of a Reshape reads the original, an identity Transpose or Cast is not emitted.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto

from planc.training.emit.emitter import HALVES, RANDOM_KEY, Array, Emitter, LayerGroup, Shape, Var

__all__ = [
    "FLOATS",
    "HALVES",
    "MAX_CONCAT_INPUTS",
    "RANDOM_KEY",
    "Array",
    "Builder",
    "LayerGroup",
    "Operand",
    "Shape",
    "Var",
]

FLOATS = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16})

MAX_CONCAT_INPUTS = 32
"""CUDA's Concat refuses more inputs than this while a CUDA graph is captured (ONNX Runtime 1.31.1 on an H100)."""

Operand = Var | float


class Builder(Emitter):
    """What rules write gradients with."""

    # --- element-wise

    def _binary(self, op_type: str, a: Operand, b: Operand, dtype: int | None = None, name: str | None = None) -> Var:
        if not isinstance(a, Var):
            if not isinstance(b, Var):
                raise TypeError("one operand must be a Value")
            a = self.scalar_for(a, b)
        elif not isinstance(b, Var):
            b = self.scalar_for(b, a)
        shape = a.shape if a.shape == b.shape else np.broadcast_shapes(a.shape, b.shape)
        return self.op(op_type, [a, b], shape, dtype or a.dtype, name)

    def add(self, a: Operand, b: Operand, name: str | None = None) -> Var:
        return self._binary("Add", a, b, name=name)

    def sub(self, a: Operand, b: Operand, name: str | None = None) -> Var:
        return self._binary("Sub", a, b, name=name)

    def mul(self, a: Operand, b: Operand, name: str | None = None) -> Var:
        if b == 1.0 and isinstance(a, Var) and name is None:
            return a
        return self._binary("Mul", a, b, name=name)

    def div(self, a: Operand, b: Operand, name: str | None = None) -> Var:
        return self._binary("Div", a, b, name=name)

    def pow(self, a: Var, exponent: float) -> Var:
        return self._binary("Pow", a, exponent)

    def compare(self, op_type: str, a: Operand, b: Operand) -> Var:
        """Greater, Less, Equal, ...: a boolean tensor."""
        return self._binary(op_type, a, b, TensorProto.BOOL)

    def unary(self, op_type: str, a: Var, name: str | None = None, **attributes: Any) -> Var:
        """Exp, Neg, Sqrt, ...: same shape and dtype."""
        return self.op(op_type, [a], a.shape, name=name, **attributes)

    def where(self, condition: Var, a: Operand, b: Operand) -> Var:
        like = a if isinstance(a, Var) else b
        if not isinstance(like, Var):
            raise TypeError("one branch must be a Value")
        a, b = (v if isinstance(v, Var) else self.scalar_for(v, like) for v in (a, b))
        return self.op("Where", [condition, a, b], np.broadcast_shapes(condition.shape, a.shape, b.shape), a.dtype)

    def cast(self, a: Var, dtype: int, name: str | None = None) -> Var:
        if a.dtype == dtype and name is None:
            return a
        half = self.unwidened(a)
        if half.dtype == dtype and name is None:  # narrowing gives back what was widened
            return half
        made = self.op("Cast", [a], a.shape, dtype, name, to=dtype)
        self._note_widening(a, made)
        return made

    def unwidened(self, a: Var) -> Var:
        """The half-precision tensor that a Cast made float32 `a` of, in the shape of `a`; `a` itself if there is none.

        For operators that read either type and compute in float32 anyway.
        """
        half = self._halves.get(self._views.get(a.name, a).name)
        return a if half is None else self.reshape(half, a.shape)

    def wide(self, a: Var) -> Var:
        """`a` in float32 where it is half precision, for sums and statistics."""
        return self.cast(a, TensorProto.FLOAT) if a.dtype in HALVES else a

    # --- reductions

    def reduce(self, op_type: str, a: Var, axes: Sequence[int], keepdims: bool = True) -> Var:
        """ReduceSum, ReduceMean, ... over `axes`."""
        dropped = {axis % a.rank for axis in axes}
        if not dropped:
            return a
        sizes = [(1 if i in dropped else d) for i, d in enumerate(a.shape) if keepdims or i not in dropped]
        return self.op(op_type, [a, self.ints(sorted(dropped))], tuple(sizes), keepdims=int(keepdims))

    def sum(self, a: Var, axes: Sequence[int], keepdims: bool = True) -> Var:
        return self.reduce("ReduceSum", a, axes, keepdims)

    def mean(self, a: Var, axes: Sequence[int], keepdims: bool = True) -> Var:
        return self.reduce("ReduceMean", a, axes, keepdims)

    # --- shape

    def reshape(self, a: Var, shape: Sequence[int], name: str | None = None) -> Var:
        """A view of `a` with concrete `shape`, taken from the tensor that `a` itself may be a view of."""
        shape = tuple(shape)
        source = self._views.get(a.name, a)
        if name is None and shape in (a.shape, source.shape):
            return a if shape == a.shape else source
        empty = {"allowzero": 1} if 0 in shape else {}  # else 0 stands for the length that was there
        view = self.op("Reshape", [source, self.ints(shape)], shape, name=name, **empty)
        self._views[view.name] = source
        return view

    def local_view(self, a: Var) -> Var:
        """`a`, or where `a` is a view, a view of the same tensor made in the current group.

        A layer of the backward phase then reads the viewed tensor itself, and no view has to be kept beside it.
        """
        source = self._views.get(a.name)
        if source is None:
            return a
        view = self.op("Reshape", [source, self.ints(a.shape)], a.shape)
        self._views[view.name] = source
        return view

    def transpose(self, a: Var, perm: Sequence[int]) -> Var:
        """`a` with its axes permuted; a chain of Transposes inside one group becomes one."""
        perm = tuple(perm)
        if a.name in self._transposes and self._transposes[a.name][2] == self.group:
            source, first, _ = self._transposes[a.name]
            a, perm = source, tuple(first[axis] for axis in perm)
        shape = tuple(a.shape[axis] for axis in perm)
        moved = [axis for axis in perm if a.shape[axis] != 1]
        if moved == sorted(moved):
            return self.reshape(a, shape)
        result = self.op("Transpose", [a], shape, perm=perm)
        self._transposes[result.name] = (a, perm, self.group)
        return result

    def swap_last(self, a: Var) -> Var:
        """`a` with its last two axes exchanged."""
        return self.transpose(a, (*range(a.rank - 2), a.rank - 1, a.rank - 2))

    def concat(self, parts: Sequence[Var], axis: int, name: str | None = None) -> Var:
        """The concatenation along `axis`, as a tree where there are more parts than one Concat should take."""
        if len(parts) == 1 and name is None:
            return parts[0]
        if len(parts) > MAX_CONCAT_INPUTS:
            chunks = [parts[i : i + MAX_CONCAT_INPUTS] for i in range(0, len(parts), MAX_CONCAT_INPUTS)]
            return self.concat([self.concat(chunk, axis) for chunk in chunks], axis, name)
        shape = list(parts[0].shape)
        shape[axis] = sum(part.shape[axis] for part in parts)
        return self.op("Concat", list(parts), tuple(shape), name=name, axis=axis)

    def slice(self, a: Var, ranges: Mapping[int, tuple[int, int, int]]) -> Var:
        """`a` restricted along each axis of `ranges` to (start, end, positive step), half-open."""
        kept = {axis: r for axis, r in ranges.items() if r != (0, a.shape[axis], 1)}
        if not kept:
            return a
        shape = list(a.shape)
        for axis, (start, end, step) in kept.items():
            shape[axis] = len(range(start, end, step))
        starts, ends, steps = (self.ints(column) for column in zip(*kept.values(), strict=True))
        return self.op("Slice", [a, starts, ends, self.ints(kept), steps], tuple(shape))

    def flip(self, a: Var, axes: Sequence[int]) -> Var:
        """`a` reversed along each of `axes` that is longer than one."""
        axes = [axis for axis in axes if a.shape[axis] > 1]
        if not axes:
            return a
        starts, ends = (self.ints([number] * len(axes)) for number in (-1, -(2**31)))
        return self.op("Slice", [a, starts, ends, self.ints(axes), starts], a.shape)

    def pad(self, a: Var, before: Sequence[int], after: Sequence[int]) -> Var:
        """`a` with zeros added at both ends of each axis; negative amounts crop."""
        if not any(before) and not any(after):
            return a
        shape = tuple(d + p + q for d, p, q in zip(a.shape, before, after, strict=True))
        return self.op("Pad", [a, self.ints([*before, *after])], shape)

    def expand(self, a: Var, shape: Sequence[int]) -> Var:
        return a if a.shape == tuple(shape) else self.op("Expand", [a, self.ints(shape)], tuple(shape))

    def unbroadcast(self, a: Var, shape: Shape) -> Var:
        """The sum of `a` over the axes along which a tensor of `shape` was broadcast to it."""
        lead = a.rank - len(shape)
        stretched = [lead + i for i, d in enumerate(shape) if d == 1 and a.shape[lead + i] != 1]
        return self.reshape(self.sum(a, [*range(lead), *stretched]), shape)

    # --- products

    def matmul(self, a: Var, b: Var) -> Var:
        """Batched matrix product of tensors of rank two or more."""
        batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        return self.op("MatMul", [a, b], (*batch, a.shape[-2], b.shape[-1]))

    def gemm(self, a: Var, b: Var, trans_a: bool = False, trans_b: bool = False, alpha: float = 1.0) -> Var:
        """alpha · op(a) · op(b) of two matrices."""
        attributes: dict[str, Any] = {"transA": 1} if trans_a else {}
        attributes |= {"transB": 1} if trans_b else {}
        attributes |= {"alpha": alpha} if alpha != 1.0 else {}
        return self.op("Gemm", [a, b], (a.shape[int(trans_a)], b.shape[int(not trans_b)]), **attributes)
