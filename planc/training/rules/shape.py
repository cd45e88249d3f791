"""Gradients of operators that only move elements: each is its own inverse movement."""

from planc.training.builder import Builder, Value
from planc.training.registry import ForwardNode, Gradients, Lowered, OutputGradients, gradient, lowering, sole


@lowering("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def lower_view(b: Builder, node: ForwardNode) -> Lowered:
    """A Reshape to the static shape, reading what its input is itself a view of."""
    b.reshape(node.input(0), node.output.shape, name=node.output.name)
    return Lowered()


@gradient("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """A view back to the input's shape."""
    return {0: b.reshape(sole(grads), node.input(0).shape)}


@gradient("Transpose")
def transpose(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """The inverse permutation."""
    dy = sole(grads)
    perm = node.attribute("perm", list(reversed(range(dy.rank))))
    return {0: b.transpose(dy, [perm.index(axis) for axis in range(dy.rank)])}


@gradient("Concat")
def concat(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """Each input's slice of dy."""
    dy, found, start = sole(grads), {}, 0
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
    x = node.input(0)
    axis = int(node.attribute("axis", 0)) % x.rank
    parts = [dy or _zeros(b, out) for dy, out in zip(grads, node.outputs, strict=True) if out is not None]
    return {0: b.concat(parts, axis)}


def _zeros(b: Builder, like: Value) -> Value:
    return b.expand(b.scalar_for(0.0, like), like.shape)
