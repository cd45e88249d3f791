"""Parts that an exporter takes out of a sequence, as slices: a tensor split by constants, read at constant positions."""

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from planc.graph.annotations import annotate_like
from planc.graph.nodes import replace_nodes
from planc.training.emit.builder import Array
from planc.training.registry import attributes_of

_SPLIT, _AT = "SplitToSequence", "SequenceAt"


def unpack_sequences(model: onnx.ModelProto) -> None:
    """Replace, in place, every SequenceAt of a SplitToSequence by a Slice where sizes and position are constants.

    What else works on sequences stays, to be refused by name.
    """
    graph = model.graph
    splits = {node.output[0]: node for node in graph.node if node.op_type == _SPLIT}
    if not splits:
        return
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer if len(t.dims) <= 1}
    constants |= {
        node.output[0]: np.asarray(numpy_helper.to_array(node.attribute[0].t))
        for node in graph.node
        if node.op_type == "Constant" and node.attribute[0].name == "value"
    }
    nodes = [part for node in graph.node for part in _unpacked(node, splits, constants)]
    read = {name for node in nodes for name in node.input}
    replace_nodes(graph, (node for node in nodes if node.op_type != _SPLIT or node.output[0] in read))


def _unpacked(
    node: onnx.NodeProto, splits: Mapping[str, onnx.NodeProto], constants: Mapping[str, Array]
) -> list[onnx.NodeProto]:
    """The node, or what it is as a slice."""
    split = splits.get(node.input[0]) if node.op_type == _AT and node.input else None
    position = constants.get(node.input[1]) if split is not None else None
    if split is None or position is None or int(position) < 0:
        return [node]
    given = split.input[1] if len(split.input) > 1 else ""
    if given and given not in constants:
        return [node]
    start, end = _range(constants[given] if given else np.array(1), int(position))
    settings, name = attributes_of(split), node.output[0]
    axis, dropped = int(settings.get("axis", 0)), not given and not settings.get("keepdims", 1)
    target = f"{name}.part" if dropped else name
    bounds = {f"{name}.{key}": value for key, value in (("start", start), ("end", end), ("axis", axis))}
    made = [helper.make_node("Constant", [], [key], name=key, value_ints=[v]) for key, v in bounds.items()]
    made.append(helper.make_node("Slice", [split.input[0], *bounds], [target], name=node.name or name))
    if dropped:
        made.append(helper.make_node("Squeeze", [target, f"{name}.axis"], [name], name=f"{name}.squeeze"))
    for part in made:
        annotate_like(part, node)
    return made


def _range(sizes: Array, position: int) -> tuple[int, int]:
    """Where a part begins and ends; the last of equal parts may reach beyond the tensor, which a Slice allows."""
    if sizes.ndim == 0:
        return position * int(sizes), (position + 1) * int(sizes)
    ends = np.cumsum(sizes)
    return int(ends[position] - sizes[position]), int(ends[position])
