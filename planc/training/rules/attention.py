"""Attention as one operator of planc's own, with its gradient (`planc.training.prepare.attention` finds it)."""

from typing import Any

from planc.kernels.attention import ATTENTION, ATTENTION_GRADIENT
from planc.training.emit.builder import Builder, Var
from planc.training.prepare.attention import OP_TYPE
from planc.training.registry import ForwardNode, ForwardResult, Gradients, OutputGradients, forward_rule, gradient, sole


def _settings(node: ForwardNode) -> dict[str, Any]:
    names = {"scale": 1.0, "causal": 0, "heads_last": 0}
    return {name: node.attribute(name, default) for name, default in names.items()}


def _operands(node: ForwardNode) -> list[Var]:
    return [v for v in node.inputs if v is not None]


@forward_rule(OP_TYPE)
def lower_attention(b: Builder, node: ForwardNode) -> ForwardResult:
    """Kept: the operands, the output, and a number for each row of scores."""
    _, stats = b.kernel(ATTENTION, _operands(node), [node.output.name], **_settings(node))
    return ForwardResult({"stats": stats})


@gradient(OP_TYPE)
def attention(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """Those of queries, keys and values."""
    q, k, v, *bias = _operands(node)
    operands = [sole(grads), q, k, v, node.output, node.saved["stats"], *bias]
    made = b.kernel(ATTENTION_GRADIENT, operands, **_settings(node))
    return {position: value for position, value in enumerate(made) if position in node.wanted}
