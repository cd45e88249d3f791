"""What torch's ONNX exporter does to weights is warned of; sequences that it makes of splits are slices."""

import warnings

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.training_steps import run_steps

from planc.errors import ModelError, PlancWarning
from planc.training import Optimizer, differentiate

SGD = Optimizer("sgd", learning_rate=1.0)


def model(nodes: list[onnx.NodeProto], tensors: dict[str, np.ndarray], version: int = 18) -> onnx.ModelProto:
    """A forward model from x [2, 4] to the scalar y."""
    graph = helper.make_graph(
        nodes, "forward", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])],
        [numpy_helper.from_array(a, n) for n, a in tensors.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=10)


def node(op: str, inputs: str, output: str, **settings: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), [output], name=f"{op}.{output}", **settings)


W = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
TOKEN = np.random.default_rng(1).standard_normal((1, 1, 4)).astype(np.float32)
SUM = node("ReduceSum", "h", "y", keepdims=0)


@pytest.mark.parametrize(
    ("nodes", "tensors", "said"),
    [
        (
            [node("LayerNormalization", "x s", "a"), node("LayerNormalization", "a s", "h"), SUM],
            {"s": np.ones(4, np.float32)},
            r"merged, and train as one: 's' \(2 readers\)",
        ),
        ([node("MatMul", "x w", "a"), node("MatMul", "a v", "h"), SUM], {"w": W, "v": W.T.copy()}, "tied.*'w' and 'v'"),
        (
            [node("Unsqueeze", "x one", "a"), node("Concat", "token a", "h", axis=1), SUM],
            {"token": np.repeat(TOKEN, 2, 0), "one": np.array([1], np.int64)},
            "repeated for every sample.*'token'",
        ),
    ],
    ids=["merged", "untied", "repeated"],
)
def test_weights_that_an_exporter_changed_are_named(
    nodes: list[onnx.NodeProto], tensors: dict[str, np.ndarray], said: str
) -> None:
    with pytest.warns(PlancWarning, match=said):
        differentiate(model(nodes, tensors), loss="output", optimizer=SGD)


def test_weights_as_they_were_are_not() -> None:
    nodes = [node("MatMul", "x w", "a"), node("LayerNormalization", "a s", "b"), node("Add", "b c", "h"), SUM]
    tensors = {"w": W, "s": np.ones(4, np.float32), "c": np.zeros(4, np.float32)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        differentiate(model(nodes, tensors), loss="output", optimizer=SGD)


@pytest.mark.parametrize("sizes", [np.array(3, np.int64), np.array([3, 1], np.int64)], ids=["equal", "listed"])
def test_parts_of_a_sequence_are_slices(sizes: np.ndarray) -> None:
    nodes = [
        node("MatMul", "x w", "a"), node("SplitToSequence", "a sizes", "parts", axis=1),
        node("SequenceAt", "parts zero", "p"), node("SequenceAt", "parts one", "q"), node("Mul", "p q", "h"), SUM,
    ]  # fmt: skip
    numbers = {"sizes": sizes, "zero": np.array(0, np.int64), "one": np.array(1, np.int64)}
    step = differentiate(model(nodes, {"w": W, **numbers}), loss="output", optimizer=SGD)
    x = np.random.default_rng(2).standard_normal((2, 4)).astype(np.float32)
    made = run_steps(step, {"x": x})[0]
    a = x.astype(np.float64) @ W
    da = np.concatenate([np.repeat(a[:, 3:], 3, 1), a[:, :3].sum(1, keepdims=True)], 1)
    assert float(made["y"]) == pytest.approx(float((a[:, :3] * a[:, 3:]).sum()), rel=1e-5)
    np.testing.assert_allclose(W - made["w.next"], x.T.astype(np.float64) @ da, rtol=1e-4, atol=1e-4)


def test_a_sequence_read_at_a_computed_position_is_refused() -> None:
    nodes = [
        node("SplitToSequence", "x", "parts", axis=1, keepdims=0), node("Shape", "x", "at"),
        node("ReduceMin", "at", "least", keepdims=0), node("SequenceAt", "parts least", "h"), SUM,
    ]  # fmt: skip
    with pytest.raises(ModelError, match="works on sequences"):
        differentiate(model(nodes, {"w": W}), loss="output", optimizer=SGD)
