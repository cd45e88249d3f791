"""Assembles the finished training graph: live nodes, inputs, outputs, value_info and metadata."""

import json
from collections.abc import Mapping

import onnx
from onnx import TensorProto, helper

from planc.graph import annotations
from planc.graph.annotations import IR_VERSION
from planc.kernels import DOMAIN, opset_id
from planc.kernels.cross_entropy import CROSS_ENTROPY
from planc.training.emit.builder import Builder, Var
from planc.training.emit.opset import opset_for
from planc.training.prepare.prepare import Prepared


def finish(
    b: Builder, prepared: Prepared, loss: Var, state: Mapping[str, Var], initial: Mapping[str, TensorProto]
) -> onnx.ModelProto:
    """The ONNX model: batch inputs and state in, the loss and next state out."""
    outputs = [loss, *state.values()]
    nodes = live_nodes(b.nodes, {v.name for v in outputs})
    read = {name for node in nodes for name in node.input if name} | set(state)
    batch = [i for i in prepared.model.graph.input if i.name in read and i.name not in prepared.initializers]
    states = [_info(Var(name, tuple(t.dims), t.data_type)) for name, t in initial.items()]
    constants = {**prepared.initializers, **b.initializers}
    final = {v.name for v in outputs}
    model = onnx.ModelProto(ir_version=IR_VERSION, producer_name="planc")
    model.opset_import.append(helper.make_opsetid("", opset_for(v.dtype for v in b.values.values())))
    used = dict.fromkeys(node.op_type for node in nodes if node.domain == DOMAIN)
    if used:
        model.opset_import.append(opset_id())
        model.functions.extend(b.functions[name] for name in used)
        for function in model.functions:
            function.opset_import[0].version = model.opset_import[0].version
    graph = model.graph
    graph.name = "training_step"
    graph.node.extend(nodes)
    graph.input.extend([*batch, *states])
    graph.output.extend(_info(v) for v in outputs)
    graph.initializer.extend(initial.values())
    graph.initializer.extend(t for n, t in constants.items() if n in read and n not in initial)
    graph.value_info.extend(_info(b.values[o]) for n in nodes for o in n.output if o and o not in final)
    annotations.write_model(model, {
        annotations.STATE: json.dumps({name: v.name for name, v in state.items()}),
        annotations.LOSS: loss.name,
        annotations.INPUT_RANGES: json.dumps(_index_ranges(nodes, b, {i.name for i in batch})),
        annotations.IGNORED: json.dumps(_ignored(b, {i.name for i in batch})),
    })  # fmt: skip
    return model


def live_nodes(nodes: list[onnx.NodeProto], wanted: set[str]) -> list[onnx.NodeProto]:
    """The nodes that some wanted tensor depends on, in order."""
    needed, kept = set(wanted), []
    for node in reversed(nodes):
        if any(o in needed for o in node.output):
            needed.update(node.input)
            kept.append(node)
    return kept[::-1]


_INDEXED = {"Gather": 1, "GatherElements": 1, "ScatterElements": 1, CROSS_ENTROPY.name: 1}
"""By operator: the position of its indices into the first input, along axis `axis`, or 1 for scores of classes."""


def _index_ranges(nodes: list[onnx.NodeProto], b: Builder, inputs: set[str]) -> dict[str, list[int]]:
    """Valid values of each integer input that indexes a tensor, directly or through views: [0, size of the axis)."""
    source = {name: name for name in inputs}
    ranges: dict[str, list[int]] = {}
    for node in nodes:
        if node.op_type in ("Reshape", "Cast", "Expand") and node.input[0] in source:
            source[node.output[0]] = source[node.input[0]]
        own = node.domain == DOMAIN
        position = _INDEXED.get(node.op_type.rpartition("_")[0] if own else node.op_type)
        if position is None or node.input[position] not in source:
            continue
        axis = next((a.i for a in node.attribute if a.name == "axis"), int(own))
        size = b.values[node.input[0]].shape[axis]
        name = source[node.input[position]]
        ranges[name] = [0, min(size, ranges.get(name, [0, size])[1])]
    return ranges


MOVING = frozenset({"Reshape", "Cast", "Expand", "Slice", "Transpose", "Squeeze", "Unsqueeze"})
"""Operators whose output has the values of their first input, or some of them."""


def _ignored(b: Builder, inputs: set[str]) -> dict[str, int]:
    """The label to ignore of every batch input that labels are read from, directly or through views."""
    source = {output: node.input[0] for node in b.nodes if node.op_type in MOVING for output in node.output}
    found: dict[str, int] = {}
    for name, label in b.ignored_labels.items():
        while name in source:
            name = source[name]
        if name in inputs:
            found[name] = label
    return found


def _info(value: Var) -> onnx.ValueInfoProto:
    """As onnx.helper.make_tensor_value_info, in a third of its time: there is one per intermediate."""
    info = onnx.ValueInfoProto(name=value.name)
    tensor = info.type.tensor_type
    tensor.elem_type = value.dtype
    tensor.shape.SetInParent()
    for size in value.shape:
        tensor.shape.dim.add().dim_value = size
    return info
