"""Gradients where a mask meets an infinite factor, at ties, and of batches whose labels are all ignored: as torch."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.training_steps import run_steps, state_pairs

pytest.importorskip("torch")

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import planc.torch
from planc.training import Optimizer, differentiate

W = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
X = np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32)
ZERO_ROW = np.where(np.arange(3)[:, None] == 1, np.float32(0), X)


def node(op_type: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs, [output], **attributes)


def planc_gradient(nodes: list[onnx.NodeProto], constants: dict[str, Any], x: np.ndarray) -> np.ndarray:
    graph = helper.make_graph(
        [node("MatMul", ["x", "w"], "y"), *nodes, node("ReduceSum", ["z"], "loss", keepdims=0)],
        "forward",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 4])],
        [helper.make_tensor_value_info("loss", TensorProto.FLOAT, [])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in {"w": W, **constants}.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    step = differentiate(model, loss="output", optimizer=Optimizer("sgd", learning_rate=1.0))
    (made,) = run_steps(step, {"x": x, "w": W})
    return W - made[state_pairs(step)["w"]]


def torch_gradient(function: Callable[[Tensor], Tensor], x: np.ndarray) -> np.ndarray:
    w = torch.tensor(W, requires_grad=True)
    function(torch.tensor(x) @ w).sum().backward()
    return w.grad.numpy()


ZERO = np.float32(0)
CASES = {
    "normalised zero row": (
        [node("ReduceL2", ["y", "ax"], "n", keepdims=1), node("Clip", ["n", "eps"], "c"), node("Div", ["y", "c"], "z")],
        {"ax": np.array([1]), "eps": np.float32(1e-12)}, lambda y: F.normalize(y, dim=1), ZERO_ROW,
    ),
    "root of relu": (
        [node("Relu", ["y"], "r"), node("Sqrt", ["r"], "z")], {}, lambda y: torch.relu(y).sqrt(), X,
    ),
    "where around a logarithm": (
        [node("Clip", ["y", "o"], "r"), node("Log", ["r"], "s"), node("Greater", ["y", "o"], "c"),
         node("Where", ["c", "s", "o"], "z")],
        {"o": ZERO}, lambda y: torch.where(y > 0, y.clamp(min=0).log(), torch.zeros(())), X,
    ),
    "ties": ([node("Max", ["y", "y"], "z")], {}, lambda y: torch.maximum(y, y), X),
    "ties with zero": ([node("Max", ["y", "o"], "z")], {"o": ZERO}, lambda y: torch.maximum(y, torch.zeros(())), ZERO_ROW),
    "to the power of zero": ([node("Pow", ["y", "o"], "z")], {"o": ZERO}, lambda y: y**0, ZERO_ROW),
    "to the powers": (
        [node("Relu", ["y"], "r"), node("Pow", ["r", "e"], "z")], {"e": np.array([0, 1, 2, 3, 1, 2], np.float32)},
        lambda y: torch.relu(y) ** torch.tensor([0.0, 1, 2, 3, 1, 2]), ZERO_ROW,
    ),
    "reciprocal of relu": (
        [node("Relu", ["y"], "r"), node("Reciprocal", ["r"], "q"), node("Greater", ["y", "o"], "c"),
         node("Where", ["c", "q", "o"], "z")],
        {"o": ZERO}, lambda y: torch.where(y > 0, 1 / torch.relu(y), torch.zeros(())), X,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_masks_select_and_ties_share(name: str) -> None:
    nodes, constants, function, x = CASES[name]
    expected, found = torch_gradient(function, x), planc_gradient(nodes, constants, x)
    if name == "reciprocal of relu":  # torch multiplies infinity by zero itself there
        expected = np.where(np.isnan(expected), found, expected)
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


class Net(nn.Module):
    """A product with one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(W))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.w


LABELS = {
    "all ignored": (lambda y, t: F.cross_entropy(y, t), [-100, -100, -100]),
    "some ignored": (lambda y, t: F.cross_entropy(y, t), [1, -100, 2]),
    "ignored sum": (lambda y, t: F.cross_entropy(y, t, reduction="sum"), [-100, -100, 5]),
    "weighted and ignored": (lambda y, t: F.cross_entropy(y, t, weight=torch.arange(6) + 1.0), [-100, 3, -100]),
    "an impossible class ignored": (
        lambda y, t: F.cross_entropy(y.masked_fill(torch.arange(6) == 0, -torch.inf), t), [1, -100, 2]
    ),
    "smoothed, some ignored": (lambda y, t: F.cross_entropy(y, t, label_smoothing=0.1), [1, -100, 2]),
}  # fmt: skip


@pytest.mark.parametrize("name", LABELS)
def test_ignored_labels_give_no_gradient(name: str) -> None:
    loss, labels = LABELS[name]
    module, targets = Net(), torch.tensor(labels)
    model = planc.torch.export_training_step(module, loss, (torch.tensor(X), targets), Optimizer("sgd", 1.0))
    (made,) = run_steps(model, {"x": X, "labels": targets.numpy(), "w": W})
    loss(module(torch.tensor(X)), targets).backward()
    np.testing.assert_allclose(W - made[state_pairs(model)["w"]], module.w.grad, rtol=1e-4, atol=1e-6)
    ranges = {p.key: p.value for p in model.metadata_props}
    assert '"labels": [0, 6]' in ranges["planc.input_ranges"]
    assert '"labels": -100' in ranges["planc.ignored"]


@pytest.mark.parametrize("kind", ["boolean", "additive"])
def test_a_query_without_keys_attends_to_nothing(kind: str) -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.q = nn.Linear(4, 4)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            h = self.q(x)
            return F.scaled_dot_product_attention(h, h, h, mask).pow(2).mean()

    module, x = Attention(), torch.randn(1, 1, 3, 4)
    mask = torch.ones(1, 1, 3, 3, dtype=torch.bool)
    mask[..., 0, :] = False
    if kind == "additive":
        mask = torch.zeros(1, 1, 3, 3).masked_fill(~mask, -torch.inf)
    model = planc.torch.export_training_step(module, lambda y: y, ((x, mask), None), Optimizer("sgd", 1.0))
    before = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    (made,) = run_steps(model, {"x": x.numpy(), "mask": mask.numpy()})
    wide = Attention().double()
    loss = wide(x.double(), mask if mask.dtype == torch.bool else mask.double())
    loss.backward()
    np.testing.assert_allclose(made["loss"], loss.item(), rtol=1e-5)
    pairs = state_pairs(model)
    np.testing.assert_allclose(before["q.weight"] - made[pairs["q.weight"]], wide.q.weight.grad, atol=1e-6)
