"""Applies one rule of the library to operators that come already differentiated.

Graphs traced or lowered from elsewhere hold the backward operators themselves. Each is turned back into the forward
operator it belongs to, so that forward and backward get the same lowering as in `differentiate`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from onnx import helper

from planc.training.emit.builder import Builder, Shape, Var
from planc.training.emit.forms import OperatorForms
from planc.training.registry import ForwardNode, Gradients
from planc.training.rules import FORWARD_RULES, GRADIENTS

Update = Callable[[Builder], dict[str, Var]]
Spec = tuple[Shape, int]


def forward_node(
    b: Builder,
    table: OperatorForms,
    op_type: str,
    inputs: Sequence[Var | None],
    outputs: Sequence[Var | None],
    name: str = "",
    **attributes: Any,
) -> ForwardNode:
    """The standard operator `op_type` on known tensors, as rules see it; nothing is emitted."""
    read, made = ([v.name if v else "" for v in listed] for listed in (inputs, outputs))
    proto = helper.make_node(op_type, read, made, name=name or f"{b.group.layer}.{op_type}", **attributes)
    return ForwardNode(proto, tuple(inputs), tuple(outputs), attributes, b.initializers, table)


def emit_forward(b: Builder, node: ForwardNode) -> tuple[ForwardNode, Update | None]:
    """Emit `node` as the library lowers it.

    Returns it with what its gradient will want, and the update of the state it holds, which is to be emitted in a
    group of its own.
    """
    lowered = FORWARD_RULES[node.op_type](b, node) if node.op_type in FORWARD_RULES else None
    if lowered is not None:
        return replace(node, saved=lowered.saved), lowered.update
    specs = [(v.shape, v.dtype) if v else None for v in node.outputs]
    names = [v.name if v else None for v in node.outputs]
    b.emit(node.op_type, list(node.inputs), specs, names, **node.attributes)
    return node, None


def gradients_of(
    b: Builder, node: ForwardNode, grads: Sequence[Var | None], wanted: Iterable[int]
) -> Gradients:  # fmt: skip
    """The gradients of the inputs of `node` at the positions `wanted`, from those of its outputs."""
    return GRADIENTS[node.op_type](b, replace(node, wanted=frozenset(wanted)), grads)
