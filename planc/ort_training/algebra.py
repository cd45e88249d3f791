"""Handlers of the tensor algebra that ONNX Runtime's training graphs consist of: views, products, sums.

Semantics are those of ONNX Runtime 1.19's training operators (orttraining/core/graph/training_op_defs.cc).
"""

import math
from typing import Any

import numpy as np

from planc.errors import ModelError
from planc.ort_training import layers as ort_artifacts_layers  # noqa: F401 - registers the handlers of layers
from planc.ort_training.lowering import ArtifactLowering, Call, Results, Tensor, lowers
from planc.training.emit.builder import Var
from planc.training.rules.reductions import leading_sum


@lowers("Identity")
def identity(c: ArtifactLowering, call: Call) -> Results:
    """The tensor itself."""
    return [c.tensor(call.name(0))]


@lowers("Transpose")
def transpose(c: ArtifactLowering, call: Call) -> Results:
    """Permuted axes, not yet materialised."""
    a = c.tensor(call.name(0))
    return [c.permuted(a, call.attribute("perm", list(reversed(range(len(a.shape))))))]


@lowers("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def view(c: ArtifactLowering, call: Call) -> Results:
    """The same elements under a shape that is known by now."""
    a = c.tensor(call.name(0))
    if call.op_type == "Reshape":
        wanted = [int(d) for d in c.constant(call, 1)]
        keep = not call.attribute("allowzero", 0)
        shape = [a.shape[i] if d == 0 and keep else d for i, d in enumerate(wanted)]
        rest = math.prod(d for d in shape if d != -1)
        return [c.viewed(a, [math.prod(a.shape) // rest if d == -1 else d for d in shape])]
    if call.op_type == "Flatten":
        axis = call.attribute("axis", 1) % (len(a.shape) + 1)
        return [c.viewed(a, (math.prod(a.shape[:axis]), math.prod(a.shape[axis:])))]
    given = c.constant(call, 1) if call.has(1) else None
    if call.op_type == "Squeeze":
        axes = range(len(a.shape)) if given is None else [int(v) % len(a.shape) for v in given]
        return [c.viewed(a, [d for i, d in enumerate(a.shape) if i not in axes or d != 1])]
    rank = len(a.shape) + len(c.constant(call, 1))
    added, rest_dims = {int(v) % rank for v in c.constant(call, 1)}, iter(a.shape)
    return [c.viewed(a, [1 if i in added else next(rest_dims) for i in range(rank)])]


def _product(c: ArtifactLowering, left: Tensor, right: Tensor, alpha: float) -> Var:
    """alpha left right; against a matrix as one Gemm, which reads a transposed operand in place."""
    if len(right.shape) != 2 or len(left.shape) < 2:
        plain = c.b.matmul(c.ordered(left), c.ordered(right))
        return c.b.mul(plain, alpha)
    rows = math.prod(left.shape[:-1])
    (a, trans_a), (w, trans_w) = c.matrix(c.viewed(left, (rows, left.shape[-1]))), c.matrix(right)
    product = c.b.gemm(a, w, trans_a=trans_a, trans_b=trans_w, alpha=alpha)
    return c.view(product, (*left.shape[:-1], right.shape[1]))


@lowers("MatMul", "FusedMatMul", "TransposeMatMul")
def matmul(c: ArtifactLowering, call: Call) -> Results:
    """A matrix product whose operands may be asked for transposed."""
    operands = []
    for position, letter in enumerate("AB"):
        a = c.tensor(call.name(position))
        if call.attribute(f"transBatch{letter}", 0):
            raise ModelError(f"{call.where}: transBatch{letter} is not supported")
        if call.attribute(f"trans{letter}", 0):
            rank = len(a.shape)
            a = c.permuted(a, (*range(rank - 2), rank - 1, rank - 2))
        operands.append(a)
    if any(len(a.shape) < 2 for a in operands):
        raise ModelError(f"{call.where}: vectors are not supported as operands; use matrices")
    return [_product(c, operands[0], operands[1], float(call.attribute("alpha", 1.0)))]


@lowers("Gemm")
def gemm(c: ArtifactLowering, call: Call) -> Results:
    """alpha A B + beta C; an addend that counts for nothing is left out."""
    flags = [bool(call.attribute(f"trans{letter}", 0)) for letter in "AB"]
    pairs = [c.matrix(c.tensor(call.name(i))) for i in range(2)]
    (a, trans_a), (w, trans_w) = ((v, t != flag) for (v, t), flag in zip(pairs, flags, strict=True))
    alpha, beta = float(call.attribute("alpha", 1.0)), float(call.attribute("beta", 1.0))
    addend = c.optional(call, 2)
    if addend is None or beta == 0:
        return [c.b.gemm(a, w, trans_a=trans_a, trans_b=trans_w, alpha=alpha)]
    attributes: dict[str, Any] = {"transA": 1} if trans_a else {}
    attributes |= {"transB": 1} if trans_w else {}
    attributes |= {k: v for k, v in (("alpha", alpha), ("beta", beta)) if v != 1.0}
    shape = (a.shape[int(trans_a)], w.shape[int(not trans_w)])
    return [c.b.op("Gemm", [a, w, addend], shape, **attributes)]


# --- arithmetic


@lowers("Add", "Sub", "Mul", "Div")
def arithmetic(c: ArtifactLowering, call: Call) -> Results:
    """Element-wise; a constant of one element is given the rank that broadcasts fast."""
    a, other = c.value(call, 0), c.value(call, 1)
    form = {"Add": c.b.add, "Sub": c.b.sub, "Mul": c.b.mul, "Div": c.b.div}[call.op_type]
    numbers = [c.b.known_scalar(v) if v.rank <= w.rank else None for v, w in ((a, other), (other, a))]
    if numbers[1] is not None and a.size > 1:
        return [form(a, numbers[1])]
    return [form(numbers[0], other)] if numbers[0] is not None and other.size > 1 else [form(a, other)]


@lowers("Sum")
def sum_(c: ArtifactLowering, call: Call) -> Results:
    """Partial sums one by one, so that each can replace the one before it."""
    total = c.value(call, 0)
    for position in range(1, len(call.proto.input)):
        total = c.b.add(total, c.value(call, position))
    return [total]


@lowers("Scale")
def scale(c: ArtifactLowering, call: Call) -> Results:
    """x scale, or x / scale where `scale_down`."""
    x, factor = c.value(call, 0), c.value(call, 1)
    by = c.b.cast(c.view(factor, (1,) * x.rank), x.dtype)
    return [c.b.div(x, by) if call.attribute("scale_down", 0) else c.b.mul(x, by)]


@lowers("ReduceSum", "ReduceSumTraining")
def reduce_sum(c: ArtifactLowering, call: Call) -> Results:
    """Sums over leading axes, as bias gradients are, in the form that the device repeats exactly."""
    a, keep = c.value(call, 0), bool(call.attribute("keepdims", 1))
    given = c.constant(call, 1) if call.has(1) else np.array(call.attribute("axes", []), np.int64)
    axes = sorted(int(v) % a.rank for v in given)
    if not axes:
        axes = [] if call.attribute("noop_with_empty_axes", 0) else list(range(a.rank))
    if not axes:
        return [a]
    kept = tuple(1 if i in axes else d for i, d in enumerate(a.shape) if keep or i not in axes)
    if len(axes) == a.rank:
        return [c.view(c.b.op("ReduceSum", [a], (), keepdims=0), kept)]
    if axes == list(range(len(axes))):
        return [c.view(leading_sum(c.b, c.table, a, a.rank - len(axes)), kept)]
    return [c.b.sum(a, axes, keepdims=keep)]


@lowers("ReduceAllL2")
def reduce_all_l2(c: ArtifactLowering, call: Call) -> Results:
    """The Euclidean norm of all inputs together."""
    squares = [c.b.op("ReduceSumSquare", [c.value(call, i)], (), keepdims=0) for i in range(len(call.proto.input))]
    total = squares[0]
    for square in squares[1:]:
        total = c.b.add(total, square)
    return [c.b.unary("Sqrt", total)]


@lowers("ConcatTraining")
def concat(c: ArtifactLowering, call: Call) -> Results:
    """Concatenation; the second output, the parts' lengths, is a constant."""
    parts = [c.value(call, i) for i in range(len(call.proto.input))]
    axis = call.attribute("axis", 0) % parts[0].rank
    if call.makes(1):
        c.constants[call.proto.output[1]] = np.array([part.shape[axis] for part in parts], np.int64)
    return [c.b.concat(parts, axis)]


@lowers("SplitTraining")
def split(c: ArtifactLowering, call: Call) -> Results:
    """Parts of the given lengths."""
    a, sizes = c.value(call, 0), [int(v) for v in c.constant(call, 1)]
    axis = call.attribute("axis", 0) % a.rank
    specs = [((*a.shape[:axis], size, *a.shape[axis + 1 :]), a.dtype) for size in sizes]
    return c.b.emit("Split", [a, c.b.ints(sizes)], specs, axis=axis)
