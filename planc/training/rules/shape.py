"""Gradients of operators that only move elements: each is undone by its inverse movement."""

import numpy as np

from planc.errors import ModelError
from planc.training.emit.builder import Builder, Var
from planc.training.registry import (
    ForwardNode,
    ForwardResult,
    Gradients,
    OutputGradients,
    forward_rule,
    gradient,
    sole,
)  # fmt: skip


@forward_rule("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def lower_view(b: Builder, node: ForwardNode) -> ForwardResult:
    """A Reshape to the static shape, reading what its input is itself a view of."""
    b.reshape(node.input(0), node.output.shape, name=node.output.name)
    return ForwardResult()


@gradient("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """A view back to the input's shape."""
    return {0: b.reshape(sole(grads), node.input(0).shape)}


@gradient("Transpose")
def transpose(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """The inverse permutation."""
    dy = sole(grads)
    perm = list(node.attribute("perm", list(reversed(range(dy.rank)))))
    return {0: b.transpose(dy, [perm.index(axis) for axis in range(dy.rank)])}


@gradient("Concat")
def concat(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """Each input's slice of dy."""
    dy, start = sole(grads), 0
    found: dict[int, Var] = {}
    axis = int(node.attribute("axis", 0)) % dy.rank
    for position in range(len(node.inputs)):
        end = start + node.input(position).shape[axis]
        if position in node.wanted:
            found[position] = b.slice(dy, {axis: (start, end, 1)})
        start = end
    return found


@gradient("Split")
def split(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """The concatenation of the parts' gradients, zeros for a part without one."""
    axis = int(node.attribute("axis", 0)) % node.input(0).rank
    pairs = zip(grads, node.outputs, strict=True)
    parts = [dy or b.expand(b.scalar_for(0.0, out), out.shape) for dy, out in pairs if out is not None]
    return {0: b.concat(parts, axis)}


@gradient("Slice")
def slice_(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """dy put back in place among zeros: reversed for negative steps, spread for steps beyond one, then padded."""
    x, dy = node.input(0), sole(grads)
    starts, ends = node.ints(1, "starts") or [], node.ints(2, "ends") or []
    axes = [a % x.rank for a in node.ints(3, "axes") or range(len(starts))]
    steps = node.ints(4, "steps") or [1] * len(starts)
    taken = {a: range(x.shape[a])[slice(*r)] for a, r in zip(axes, zip(starts, ends, steps, strict=True), strict=True)}
    for axis, positions in taken.items():
        if positions.step < 0:
            dy = b.op("Gather", [dy, b.ints(reversed(range(dy.shape[axis])))], dy.shape, axis=axis)
            taken[axis] = positions[::-1]
    dy = spread(b, dy, {a: r.step for a, r in taken.items() if len(r) > 1})
    before, after = [0] * x.rank, [0] * x.rank
    for axis, positions in taken.items():
        before[axis] = positions.start
        after[axis] = x.shape[axis] - positions.start - dy.shape[axis]
    return {0: b.pad(dy, before, after)}


def spread(b: Builder, a: Var, strides: dict[int, int]) -> Var:
    """`a` with stride - 1 zeros behind each of its elements along each axis of `strides`: no scatter, so repeatable.

    One selection between `a` and zero by a broadcast mask, which infinite values pass unharmed. [32, 256, 28, 28] by two
    in both directions takes .076 ms, as two pads .167 (H100, benchmarks/gpu/slow_operators.py).
    """
    strides = {axis: s for axis, s in strides.items() if s > 1}
    if not strides:
        return a
    rows: list[int] = []
    mask: list[int] = []
    plain = 1  # axes in between are merged: kernels are slower on more of them
    for axis, size in enumerate(a.shape):
        plain *= size
        if axis in strides:
            rows += plain, 1
            mask += 1, strides[axis]
            plain = 1
    rows.append(plain)
    mask.append(1)
    chosen = np.zeros(mask, bool)
    chosen.flat[0] = True
    spaced = b.where(b.constant(chosen), b.reshape(a, rows), 0.0)
    return b.reshape(spaced, [size * strides.get(axis, 1) for axis, size in enumerate(a.shape)])


@forward_rule("Pad")
def lower_pad(b: Builder, node: ForwardNode) -> ForwardResult:
    """The operator as it is; mode `wrap`, which opset 18 lacks, as a concatenation of slices an axis at a time."""
    x, name, padded = node.input(0), node.output.name, _padded_axes(node)
    if node.attribute("mode", "constant") != "wrap" or not padded:
        settings = {"mode": "constant"} if not padded else node.attributes
        b.emit("Pad", list(node.inputs), [(node.output.shape, x.dtype)], [name], **settings)
        return ForwardResult()
    for axis, (before, after) in padded.items():
        size = x.shape[axis]
        if not 0 <= before <= size or not 0 <= after <= size:
            raise ModelError(
                f"{node.where}: mode 'wrap' with pads {before}, {after} of {size} elements is not supported"
            )
        ends = [b.slice(x, {axis: r}) for r in ((size - before, size, 1), (0, after, 1)) if r[0] < r[1]]
        parts = [ends[0], x, *ends[1:]] if before else [x, *ends]
        x = b.concat(parts, axis, name=name if axis == max(padded) else None)
    return ForwardResult()


def _padded_axes(node: ForwardNode) -> dict[int, tuple[int, int]]:
    """{axis: (before, after)} of every axis that a Pad changes; negative amounts crop."""
    rank, pads = node.input(0).rank, node.ints(1, "pads") or []
    axes = [a % rank for a in node.ints(3, "axes") or range(rank)]
    found = {axis: (pads[i], pads[len(axes) + i]) for i, axis in enumerate(axes)}
    return {axis: found[axis] for axis in sorted(found) if any(found[axis])}


@gradient("Pad")
def pad(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """The part of dy that the input covers; but for constants, what was copied from the input goes back to it."""
    dy, mode, padded = sole(grads), node.attribute("mode", "constant"), _padded_axes(node)
    for axis, (before, after) in padded.items():
        if mode != "constant" and (before < 0 or after < 0):
            raise ModelError(f"{node.where}: the gradient of negative pads in mode {mode!r} is not supported")
        size = node.input(0).shape[axis]
        kept = _placed(b, dy, axis, -before, -after)
        for start, count, lower in ((0, before, True), (before + size, after, False)):
            if mode != "constant" and count:
                part = b.slice(dy, {axis: (start, start + count, 1)})
                kept = b.add(kept, _copied_from(b, part, axis, size, mode, lower))
        dy = kept
    return {0: dy}


def _copied_from(b: Builder, part: Var, axis: int, size: int, mode: str, lower: bool) -> Var:
    """The gradient `part` of the padding at one end, at the positions of an axis of `size` that it was copied from."""
    count = part.shape[axis]
    if mode == "edge":
        part, at = b.sum(part, [axis]), 0 if lower else size - 1
    elif mode == "reflect":
        part, at = b.flip(part, [axis]), 1 if lower else size - 1 - count
    else:
        at = size - count if lower else 0
    return _placed(b, part, axis, at, size - at - part.shape[axis])


def _placed(b: Builder, a: Var, axis: int, before: int, after: int) -> Var:
    """`a` among zeros along one axis; negative amounts crop."""
    amounts = ([0] * axis + [amount] + [0] * (a.rank - axis - 1) for amount in (before, after))
    return b.pad(a, *amounts)


@gradient("Expand")
def expand(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """The sum over the broadcast axes."""
    return {0: b.unbroadcast(sole(grads), node.input(0).shape)}


@gradient("Tile")
def tile(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """The sum over the copies."""
    x, dy = node.input(0), sole(grads)
    repeats = [full // size for full, size in zip(dy.shape, x.shape, strict=True)]
    copies = b.reshape(dy, [d for pair in zip(repeats, x.shape, strict=True) for d in pair])
    axes = [2 * axis for axis, count in enumerate(repeats) if count > 1]
    return {0: b.reshape(b.sum(copies, axes), x.shape)}


@gradient("DepthToSpace")
def depth_to_space(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """The inverse permutation, SpaceToDepth in the same block order (Shi et al., 2016)."""
    x, dy = node.input(0), sole(grads)
    block, (n, c, h, w) = int(node.attribute("blocksize", 1)), x.shape
    split = b.reshape(dy, (n, c // block**2, h, block, w, block))
    perm = (0, 1, 3, 5, 2, 4) if node.attribute("mode", "DCR") == "CRD" else (0, 3, 5, 1, 2, 4)
    return {0: b.reshape(b.transpose(split, perm), x.shape)}


@gradient("SpaceToDepth")
def space_to_depth(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """DepthToSpace with the same block size."""
    x = node.input(0)
    return {0: b.op("DepthToSpace", [sole(grads)], x.shape, blocksize=int(node.attribute("blocksize", 1)))}


@gradient("Trilu")
def trilu(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """The same triangle of dy."""
    dy = sole(grads)
    return {0: b.op("Trilu", [dy, *node.inputs[1:]], dy.shape, upper=int(node.attribute("upper", 1)))}


@gradient("CumSum")
def cum_sum(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """The cumulative sum from the other end."""
    dy, reverse = sole(grads), 1 - int(node.attribute("reverse", 0))
    exclusive = int(node.attribute("exclusive", 0))
    return {0: b.op("CumSum", [dy, node.input(1)], dy.shape, reverse=reverse, exclusive=exclusive)}
