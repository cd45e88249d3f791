"""Assembles the finished training graph: live nodes, inputs, outputs, value_info and metadata."""

import json
from collections.abc import Mapping, Sequence

import onnx
from onnx import TensorProto, helper

from planc.graph import annotations
from planc.graph.annotations import IR_VERSION
from planc.kernels import DOMAIN, opset_id
from planc.kernels.cross_entropy import CROSS_ENTROPY
from planc.kernels.exchange import is_exchange
from planc.kernels.linear_cross_entropy import LINEAR_CROSS_ENTROPY
from planc.training.emit.builder import Builder, Var
from planc.training.emit.opset import opset_for
from planc.training.layout.bias_chains import biases_into_chains
from planc.training.layout.channels_last import channels_last
from planc.training.layout.kernel_surroundings import join_surroundings
from planc.training.layout.late_widening import widen_in_updates
from planc.training.layout.norm_activations import join_activations
from planc.training.layout.projected_loss import join_projections
from planc.training.layout.recomputed_links import recompute_links
from planc.training.layout.row_sums import repeatable_sums
from planc.training.layout.transposes import join_transposes


def finish(
    b: Builder,
    *,
    batch: Sequence[Var],
    defaults: Mapping[str, TensorProto],
    constants: Mapping[str, TensorProto],
    outputs: Sequence[Var],
    state: Mapping[str, tuple[TensorProto, Var]],
    kernels: bool,
) -> onnx.ModelProto:
    """The ONNX model of the builder's nodes that something wanted depends on.

    Inputs are the batch, the hyper-parameters with their `defaults`, and the state; `state` gives the initial and the next
    value of each, `outputs` what a step returns. `kernels` says that the device has those of planc's own operators.
    """
    wanted = [*outputs, *(following for _, following in state.values())]
    names = {v.name for v in wanted}
    nodes = live_nodes(join_projections(b, live_nodes(b.nodes, names), names), names)
    if any(node.domain == DOMAIN and not is_exchange(node.op_type, node.domain) for node in nodes):
        if kernels:
            nodes = live_nodes(join_surroundings(b, nodes, names), names)
        nodes = channels_last(b, join_activations(b, nodes, names), names, weights_first=not kernels)
        nodes = live_nodes(join_transposes(nodes, names), names)
    if kernels:
        nodes = biases_into_chains(b, live_nodes(recompute_links(b, nodes, names), names), names)
        nodes = widen_in_updates(b, nodes, names)
        nodes = live_nodes(repeatable_sums(b, live_nodes(nodes, names)), names)
    read = {name for node in nodes for name in node.input if name}
    initial = {name: tensor for name, (tensor, _) in state.items()} | dict(defaults)
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
    graph.input.extend(_info(v) for v in batch)
    tensors = [*(defaults[name] for name in defaults), *(tensor for tensor, _ in state.values())]
    graph.input.extend(_info(Var(t.name, tuple(t.dims), t.data_type)) for t in tensors)
    graph.output.extend(_info(v) for v in wanted)
    graph.initializer.extend(initial.values())
    graph.initializer.extend(t for n, t in {**constants, **b.initializers}.items() if n in read and n not in initial)
    made = {v.name for v in wanted}
    graph.value_info.extend(_info(b.values[o]) for n in nodes for o in n.output if o and o not in made)
    annotations.write_model(model, {
        annotations.STATE: json.dumps({name: following.name for name, (_, following) in state.items()}),
        annotations.INPUT_RANGES: json.dumps(_index_ranges(nodes, b, {v.name for v in batch})),
        annotations.IGNORED: json.dumps(_ignored(b, {v.name for v in batch})),
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


def _indexed(node: onnx.NodeProto) -> tuple[str, str, int] | None:
    """(indices, what they index, along which axis) of a node that reads one tensor at places that another one names."""
    given = {a.name: a.i for a in node.attribute}
    if node.domain == DOMAIN:
        kind = node.op_type.rpartition("_")[0]
        if kind == CROSS_ENTROPY.name:
            return node.input[1], node.input[0], 1
        return (node.input[2], node.input[1], given["columns"]) if kind == LINEAR_CROSS_ENTROPY.name else None
    if node.op_type in ("Gather", "GatherElements", "ScatterElements"):
        return node.input[1], node.input[0], given.get("axis", 0)
    return None


def _index_ranges(nodes: list[onnx.NodeProto], b: Builder, inputs: set[str]) -> dict[str, list[int]]:
    """Valid values of each integer input that indexes a tensor, directly or through views: [0, size of the axis)."""
    source = {name: name for name in inputs}
    ranges: dict[str, list[int]] = {}
    for node in nodes:
        if node.op_type in ("Reshape", "Cast", "Expand") and node.input[0] in source:
            source[node.output[0]] = source[node.input[0]]
        found = _indexed(node)
        if found is None or found[0] not in source:
            continue
        size = b.values[found[1]].shape[found[2]]
        name = source[found[0]]
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
