"""What planc writes into a training graph's ONNX metadata, so that a later command can read it back.

The model's `metadata_props` carry which outputs are the next values of which inputs; each node's `metadata_props`
name the framework-level layer that the node belongs to. Every key is optional when reading: a training graph from
elsewhere lacks them.
"""

import json
from collections.abc import Mapping

import onnx

IR_VERSION = 10
"""ONNX IR version of every model that planc writes: the newest that ONNX Runtime 1.31 and opset 18 go with."""

STATE = "planc.state"
"""JSON object {input name: output name}: the output holds the next value of that state input."""

LOSS = "planc.loss"
"""Name of the scalar output that the step minimises."""

INPUT_RANGES = "planc.input_ranges"
"""JSON object {input name: [low, high]}: valid values of an integer batch input, half-open."""

IGNORED = "planc.ignored"
"""JSON object {input name: value}: a value outside of an integer batch input's range that stands for a label to ignore."""

HYPERPARAMETERS = "planc.hyperparameters"
"""JSON object {name: [input name per parameter group, "" for a group without it]}: scalars that a step may be fed, with a
default. A list of one that names no group's input is of the whole step."""

RANK = "rank"
"""Hyper-parameter that says which of the ranks a process is, from 0; its input is `optimizer.rank`."""

SHARDS = "planc.shards"
"""JSON object of a step that is one rank's, with a share of the optimizer's state: `rank`, `step` (a hash that those of the
other ranks have too), and `owners`, {state name: rank} of what one rank alone has."""

MICRO_BATCHES = "planc.micro_batches"
"""JSON object {batch input: [its names in each micro-batch]} of a step that runs several, the first under its own name."""

LAYER = "planc.layer"
"""Name of the framework-level layer, e.g. `layer1.0.conv1`."""

KIND = "planc.kind"
"""What the layer is, e.g. `conv`, `batch-norm`, `attention`."""

PHASE = "planc.phase"
"""`forward`, `backward` or `update`."""

PHASES = ("forward", "backward", "update")


def read_json(model: onnx.ModelProto, key: str) -> dict[str, object]:
    """The JSON object stored under `key`, empty when absent. Raises ValueError when it is not a JSON object."""
    for prop in model.metadata_props:
        if prop.key == key:
            value = json.loads(prop.value)
            if not isinstance(value, dict):
                raise ValueError(f"metadata {key!r} is not a JSON object")
            return value
    return {}


def write_model(model: onnx.ModelProto, values: Mapping[str, str]) -> None:
    """Add or replace model metadata."""
    kept = [prop for prop in model.metadata_props if prop.key not in values]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    for key, value in values.items():
        model.metadata_props.add(key=key, value=value)


def annotate_node(node: onnx.NodeProto, layer: str, kind: str, phase: str) -> None:
    """Record the layer, its kind and its phase on `node`, replacing what was there."""
    values = {LAYER: layer, KIND: kind, PHASE: phase}
    kept = [prop for prop in node.metadata_props if prop.key not in values]
    del node.metadata_props[:]
    node.metadata_props.extend(kept)
    for key, value in values.items():
        node.metadata_props.add(key=key, value=value)


def annotate_like(node: onnx.NodeProto, like: onnx.NodeProto) -> None:
    """Put `node` in the layer of another, if that is in one."""
    found = node_annotation(like)
    if found is not None:
        annotate_node(node, *found)


def node_annotation(node: onnx.NodeProto) -> tuple[str, str, str] | None:
    """(layer, kind, phase) of `node`, or None where it carries none."""
    found = {prop.key: prop.value for prop in node.metadata_props}
    if LAYER not in found or found.get(PHASE) not in PHASES:
        return None
    return found[LAYER], found.get(KIND, node.op_type.lower()), found[PHASE]
