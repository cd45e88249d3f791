"""A projection joined with its loss: where it happens, and that it computes the same step."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.training_contract import violations
from support.training_steps import random_batch, run_steps
from support.zoo_networks import MOMENTUM, small_forward

from planc.graph.annotations import INPUT_RANGES, read_json
from planc.kernels.linear_cross_entropy import LINEAR_CROSS_ENTROPY
from planc.training import Optimizer, differentiate
from planc.training.layout import projected_loss

SGD = Optimizer("sgd", 1.0)
node = helper.make_node


def _joined(step: onnx.ModelProto) -> list[str]:
    return [n.name for n in step.graph.node if n.op_type.startswith(LINEAR_CROSS_ENTROPY.name)]


def _both(
    monkeypatch: pytest.MonkeyPatch,
    forward: onnx.ModelProto,
    loss: str,
    optimizer: Optimizer,
    precision: str = "float32",
) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The step as it is for small logits, and as it is for large ones."""
    made = []
    for least in (1 << 60, 1):
        monkeypatch.setattr(projected_loss, "LEAST_BYTES", least)
        made.append(differentiate(forward, loss=loss, optimizer=optimizer, device="cuda", precision=precision))
    return made[0], made[1]


@pytest.mark.parametrize("optimizer", [SGD, MOMENTUM, Optimizer("adamw")], ids=lambda o: o.kind)
def test_a_language_model_computes_the_same_step(monkeypatch: pytest.MonkeyPatch, optimizer: Optimizer) -> None:
    plain, joined = _both(monkeypatch, small_forward("gpt2").model, "cross-entropy", optimizer)
    assert (len(_joined(plain)), len(_joined(joined))) == (0, 1)
    assert violations(joined) == []
    assert read_json(joined, INPUT_RANGES) == read_json(plain, INPUT_RANGES)
    feeds = random_batch(plain)
    for wanted, found in zip(run_steps(plain, feeds, 2), run_steps(joined, feeds, 2), strict=True):
        for name in wanted:
            np.testing.assert_allclose(found[name], wanted[name], rtol=1e-5, atol=1e-6)


def test_a_half_precision_gradient_of_the_weight_goes_on_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    _, joined = _both(monkeypatch, small_forward("gpt2").model, "cross-entropy", SGD, "bf16")
    assert len(_joined(joined)) == 1
    assert violations(joined) == []
    types = {v.name: v.type.tensor_type.elem_type for v in joined.graph.value_info}
    made = next(n for n in joined.graph.node if n.name == _joined(joined)[0])
    assert [types[name] for name in made.output] == [TensorProto.FLOAT, TensorProto.BFLOAT16, TensorProto.FLOAT]


def _classifier(nodes: list[onnx.NodeProto], outputs: list[str], columns: bool = True) -> onnx.ModelProto:
    """x [6, 4] through `nodes`, which end in scores of 5 classes."""
    rng = np.random.default_rng(0)
    shapes = {"v": (4, 4), "w": (4, 5) if columns else (5, 4), "b": (5,)}
    tensors = [numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n) for n, s in shapes.items()]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [6, 4]),
        helper.make_tensor_value_info("t", TensorProto.INT64, [6]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph([node("MatMul", ["x", "v"], ["h"]), *nodes], "model", inputs, ends, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


LOSSES = {
    "mean": [node("SoftmaxCrossEntropyLoss", ["z", "t"], ["l"])],
    "sum": [node("SoftmaxCrossEntropyLoss", ["z", "t"], ["l"], reduction="sum")],
    "ignored": [node("SoftmaxCrossEntropyLoss", ["z", "t"], ["l"], ignore_index=1)],
    "scaled": [node("SoftmaxCrossEntropyLoss", ["z", "t"], ["k"]), node("Mul", ["k", "k"], ["l"])],
}


@pytest.mark.parametrize("columns", [True, False])
@pytest.mark.parametrize("kind", LOSSES)
def test_losses_of_every_reduction(monkeypatch: pytest.MonkeyPatch, kind: str, columns: bool) -> None:
    """A loss whose gradient depends on the loss itself cannot be joined."""
    product = node("MatMul", ["h", "w"], ["z"]) if columns else node("Gemm", ["h", "w"], ["z"], transB=1)
    forward = _classifier([product, *LOSSES[kind]], ["l"], columns)
    plain, joined = _both(monkeypatch, forward, "output:l", SGD)
    assert len(_joined(joined)) == int(kind != "scaled")
    feeds = random_batch(plain)
    wanted, found = (run_steps(step, feeds)[0] for step in (plain, joined))
    for name in wanted:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Gemm", ["h", "w", "b"], ["z"]), *LOSSES["mean"]],
        [node("Gemm", ["h", "w"], ["z"], alpha=2.0), *LOSSES["mean"]],
        [node("MatMul", ["h", "w"], ["y"]), node("Tanh", ["y"], ["z"]), *LOSSES["mean"]],
        [node("MatMul", ["h", "w"], ["z"]), node("SoftmaxCrossEntropyLoss", ["z", "t"], ["k"]),
         node("ReduceSum", ["z"], ["s"], keepdims=0), node("Add", ["k", "s"], ["l"])],
    ],
    ids=["bias", "factor", "activation", "another-reader"],
)  # fmt: skip
def test_other_patterns_are_left_alone(monkeypatch: pytest.MonkeyPatch, nodes: list[onnx.NodeProto]) -> None:
    _, joined = _both(monkeypatch, _classifier(nodes, ["l"]), "output:l", SGD)
    assert _joined(joined) == []


def test_small_logits_are_left_alone() -> None:
    step = differentiate(
        _classifier([node("MatMul", ["h", "w"], ["z"])], ["z"]), loss="cross-entropy", optimizer=SGD, device="cuda"
    )
    assert _joined(step) == []
