"""Calls of planc's own operators among the nodes of a step: told apart, and written anew."""

from collections.abc import Callable, Sequence

import onnx

from planc.graph.annotations import node_annotation
from planc.kernels import DOMAIN, Attribute, Operator
from planc.training.emit.builder import Builder, LayerGroup


def is_call(node: onnx.NodeProto, operator: str) -> bool:
    """Whether the node calls that operator of planc's own."""
    return node.domain == DOMAIN and node.op_type.rpartition("_")[0] == operator


def called(
    b: Builder,
    operator: Operator,
    place: onnx.NodeProto,
    inputs: Sequence[str],
    outputs: Sequence[str],
    **attributes: Attribute,
) -> list[onnx.NodeProto]:
    """A call in the layer of the node `place`, its tensors given by name; not among the builder's nodes."""
    operands = [b.values[name] for name in inputs]
    return emitted(b, place, lambda: b.kernel(operator, operands, list(outputs), **attributes))


def emitted(b: Builder, place: onnx.NodeProto, emit: Callable[[], object]) -> list[onnx.NodeProto]:
    """What `emit` lets the builder emit, in the layer of the node `place`; not among the builder's nodes."""
    b.group = LayerGroup(*(node_annotation(place) or ("", "", "")))
    before = len(b.nodes)
    emit()
    made = b.nodes[before:]
    del b.nodes[before:]
    return made
