"""Steps whose outputs or next values are what an input, a constant or a state was before."""

from collections.abc import Callable

import numpy as np
import onnx
from onnx import helper

from support.graphs import step_model

SHAPE = [8, 64]
W = np.linspace(-1, 1, 512, dtype=np.float32).reshape(SHAPE)
U = W[::-1] + 2
HALF = [4, 64]


def _node(kind: str, inputs: list[str], output: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, [output], **attributes)


def _model(
    nodes: list[onnx.NodeProto], outputs: dict[str, list[int]], state: dict[str, str], **constants: np.ndarray
) -> onnx.ModelProto:
    """A step that trains w by x, with more nodes, outputs and state."""
    train = [
        _node("Mul", ["w", "x"], "y"),
        _node("Sub", ["w", "y"], "w2"),
        _node("ReduceSum", ["y"], "loss", keepdims=0),
    ]
    initial = {"w": W, **{name: U + i for i, name in enumerate(state) if name != "w"}, **constants}
    inputs = {"x": SHAPE, **dict.fromkeys(("w", *state), SHAPE)}
    shapes = {"loss": [], **dict.fromkeys(state.values(), SHAPE), **outputs}
    return step_model([*train, *nodes], inputs, shapes, initial, {"w": "w2", **state}, "loss")


def old_state() -> onnx.ModelProto:
    return _model([_node("Identity", ["w"], "before")], {"w2": SHAPE, "before": SHAPE, "w": SHAPE}, {})


def view_of_old_state() -> onnx.ModelProto:
    nodes = [_node("Reshape", ["w", "flat"], "v"), _node("Identity", ["v"], "before")]
    return _model(nodes, {"w2": SHAPE, "v": [512], "before": [512]}, {}, flat=np.array([512]))


def piece_of_old_state() -> onnx.ModelProto:
    nodes = [helper.make_node("Split", ["w"], ["top", "rest"], axis=0, num_outputs=2)]
    return _model(nodes, {"w2": SHAPE, "top": HALF, "rest": HALF}, {})


def view_of_new_state() -> onnx.ModelProto:
    nodes = [_node("Reshape", ["w2", "flat"], "after")]
    return _model(nodes, {"w2": SHAPE, "after": [512]}, {}, flat=np.array([512]))


def batch_inputs() -> onnx.ModelProto:
    nodes = [
        _node("Identity", ["x"], "same"),
        helper.make_node("Split", ["x"], ["top", "rest"], axis=0, num_outputs=2),
        _node("Relu", ["top"], "r"),
    ]
    return _model(nodes, {"w2": SHAPE, "x": SHAPE, "same": SHAPE, "rest": HALF, "r": HALF}, {})


def constants() -> onnx.ModelProto:
    nodes = [
        _node("Mul", ["w2", "small"], "z"), _node("Mul", ["x", "large"], "q"),
        _node("Identity", ["large"], "same"), _node("Shape", ["x"], "shape"), _node("Cast", ["shape"], "numbers", to=1),
    ]  # fmt: skip
    outputs = {"w2": SHAPE, "z": SHAPE, "q": SHAPE, "small": [], "large": SHAPE, "same": SHAPE, "numbers": [2]}
    return _model(nodes, outputs, {}, small=np.float32(3), large=W * 5)


def frozen_state() -> onnx.ModelProto:
    nodes = [_node("Identity", ["u"], "same"), _node("Mul", ["u", "x"], "z")]
    return _model(nodes, {"w2": SHAPE, "same": SHAPE, "z": SHAPE}, {"u": "u"})


def previous_value() -> onnx.ModelProto:
    """u becomes what w was, and something reads u."""
    return _model([_node("Add", ["u", "x"], "z")], {"w2": SHAPE, "z": SHAPE}, {"u": "w"})


def previous_value_read_late() -> onnx.ModelProto:
    """u becomes what w was, but is read with the new w, so that it can only be written at the end."""
    return _model([_node("Add", ["u", "w2"], "z")], {"w2": SHAPE, "z": SHAPE}, {"u": "w"})


def chain_of_previous_values() -> onnx.ModelProto:
    return _model([_node("Add", ["u", "v"], "z")], {"w2": SHAPE, "z": SHAPE}, {"v": "u", "u": "w"})


def exchange() -> onnx.ModelProto:
    """u and v change places."""
    nodes = [_node("Sub", ["u", "v"], "z"), _node("Identity", ["v"], "u2"), _node("Identity", ["u"], "v2")]
    return _model(nodes, {"w2": SHAPE, "z": SHAPE}, {"u": "u2", "v": "v2"})


def last_batch() -> onnx.ModelProto:
    nodes = [_node("Sub", ["x", "u"], "change"), _node("Identity", ["x"], "u2")]
    return _model(nodes, {"w2": SHAPE, "change": SHAPE}, {"u": "u2"})


def constant_next_value() -> onnx.ModelProto:
    nodes = [_node("Sub", ["x", "u"], "z"), _node("Mul", ["x", "c"], "r"), _node("Identity", ["c"], "u2")]
    return _model(nodes, {"w2": SHAPE, "z": SHAPE, "r": SHAPE}, {"u": "u2"}, c=W * 2)


CASES: list[Callable[[], onnx.ModelProto]] = [
    old_state, view_of_old_state, piece_of_old_state, view_of_new_state, batch_inputs, constants, frozen_state,
    previous_value, previous_value_read_late, chain_of_previous_values, exchange, last_batch, constant_next_value,
]  # fmt: skip
