"""Rotary embeddings as one operator of planc's own (`planc.training.prepare.rotary` finds them)."""

from planc.kernels.rotary import ROTARY
from planc.training.emit.builder import Builder, Var
from planc.training.prepare.rotary import OP_TYPE
from planc.training.registry import ForwardNode, ForwardResult, Gradients, OutputGradients, forward_rule, gradient, sole


def _turned(b: Builder, x: Var, angles: list[Var], dtype: int, name: str | None, inverse: int) -> Var:
    """x, or a gradient, rotated, in another element type."""
    return b.kernel(ROTARY, [x, *angles], [name], inverse=inverse, to=0 if dtype == x.dtype else dtype)[0]


@forward_rule(OP_TYPE)
def lower_rotary(b: Builder, node: ForwardNode) -> ForwardResult:
    """Nothing is kept: the gradient needs the angles alone."""
    angles = [node.input(1), node.input(2)]
    _turned(b, node.input(0), angles, node.output.dtype, node.output.name, inverse=0)
    return ForwardResult()


@gradient(OP_TYPE)
def rotary(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """The rotation back."""
    angles = [node.input(1), node.input(2)]
    return {0: _turned(b, sole(grads), angles, node.input(0).dtype, None, inverse=1)} if 0 in node.wanted else {}
