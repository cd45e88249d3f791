"""Losses, optimizers, batch-norm statistics, dropout and shared tables against torch over several steps."""

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.training_steps import random_batch, run_steps

from planc.training import Optimizer, differentiate
from planc.training.emit.forms import CPU, CUDA

torch = pytest.importorskip("torch")
F = torch.nn.functional


def model_of(
    nodes: list[onnx.NodeProto], inputs: dict[str, tuple[int, list[int]]], output: str, tensors: dict[str, np.ndarray]
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes, "model", [helper.make_tensor_value_info(n, dtype, shape) for n, (dtype, shape) in inputs.items()],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(a, n) for n, a in tensors.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def perceptron() -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    tensors = {"w1": normal(1, 6, 5), "b1": normal(2, 6), "w2": normal(3, 4, 6)}
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], transB=1),
        helper.make_node("Tanh", ["h"], ["t"]),
        helper.make_node("Gemm", ["t", "w2"], ["y"], transB=1),
    ]
    return model_of(nodes, {"x": (TensorProto.FLOAT, [3, 5])}, "y", tensors), tensors


OPTIMIZERS = {
    "sgd": (Optimizer("sgd", 0.1), lambda p: torch.optim.SGD(p, 0.1)),
    "sgd-decay": (Optimizer("sgd", 0.1, weight_decay=0.05), lambda p: torch.optim.SGD(p, 0.1, weight_decay=0.05)),
    "momentum": (Optimizer("momentum", 0.1, momentum=0.8), lambda p: torch.optim.SGD(p, 0.1, 0.8)),
    "momentum-decay": (
        Optimizer("momentum", 0.1, weight_decay=0.05), lambda p: torch.optim.SGD(p, 0.1, 0.9, weight_decay=0.05),
    ),
    "adam": (Optimizer("adam", 0.05), lambda p: torch.optim.Adam(p, 0.05)),
    "adam-decay": (
        Optimizer("adam", 0.05, betas=(0.7, 0.95), epsilon=1e-4, weight_decay=0.1),
        lambda p: torch.optim.Adam(p, 0.05, (0.7, 0.95), 1e-4, 0.1),
    ),
    "adamw": (Optimizer("adamw", 0.05, weight_decay=0.1), lambda p: torch.optim.AdamW(p, 0.05, weight_decay=0.1)),
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_follows_torch_for_five_steps(name: str) -> None:
    forward, tensors = perceptron()
    ours, theirs = OPTIMIZERS[name]
    step = differentiate(forward, loss="mse", optimizer=ours, parameters=list(tensors))
    feeds = random_batch(step)
    results = run_steps(step, feeds, 5)
    leaves = {n: torch.from_numpy(a.copy()).double().requires_grad_() for n, a in tensors.items()}
    optimizer = theirs(list(leaves.values()))
    x, target = (torch.from_numpy(feeds[n]).double() for n in ("x", "target"))
    for result in results:
        optimizer.zero_grad()
        loss = F.mse_loss(torch.tanh(x @ leaves["w1"].T + leaves["b1"]) @ leaves["w2"].T, target)
        loss.backward()
        optimizer.step()
        assert float(result["loss"]) == pytest.approx(float(loss.detach()), rel=1e-4)
        for parameter, leaf in leaves.items():
            np.testing.assert_allclose(result[f"{parameter}.next"], leaf.detach().numpy(), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("shape", [[6, 5], [2, 3, 5], [2, 5, 3, 4]], ids=["2d", "3d", "4d"])
def test_cross_entropy_of_every_rank(shape: list[int]) -> None:
    """Classes last for [N, T, K], second for [N, K, H, W]."""
    scale = normal(1, *[1] * (len(shape) - 1), shape[-1])
    nodes = [helper.make_node("Mul", ["x", "scale"], ["y"])]
    forward = model_of(nodes, {"x": (TensorProto.FLOAT, shape)}, "y", {"scale": scale})
    step = differentiate(forward, loss="cross-entropy", optimizer=Optimizer("sgd", 1.0), parameters=["scale"])
    feeds = random_batch(step)
    result = run_steps(step, feeds)[0]
    leaf = torch.from_numpy(scale).double().requires_grad_()
    logits = torch.from_numpy(feeds["x"]).double() * leaf
    loss = F.cross_entropy(logits.movedim(2, 1) if len(shape) == 3 else logits, torch.from_numpy(feeds["labels"]))
    loss.backward()
    assert float(result["loss"]) == pytest.approx(float(loss.detach()), rel=1e-5)
    np.testing.assert_allclose(result["scale.next"], scale - leaf.grad.numpy(), atol=1e-5)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("ignored", [None, 1, -100])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("op_type", ["SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss"])
def test_likelihood_operators_inside_a_model(
    op_type: str, reduction: str, weighted: bool, ignored: int | None, device: str
) -> None:
    """The model's own loss node, followed by more arithmetic; images, as some labels are ignored."""
    w, labels = normal(4, 2, 3, 4, 5), np.random.default_rng(1).integers(0, 3, (2, 4, 5))
    if ignored is not None:
        labels[0, 1:3] = ignored
    classes = np.array([0.5, 2.0, 1.25], np.float32)
    settings = {"reduction": reduction} | ({} if ignored is None else {"ignore_index": ignored})
    inputs = ["w", "labels", "classes"] if weighted else ["w", "labels"]
    nodes = [
        helper.make_node(op_type, inputs, ["each"], name="own", **settings),
        helper.make_node("Mul", ["each", "each"], ["squares"]),
        helper.make_node("ReduceSum", ["squares"], ["total"], keepdims=0),
    ]
    tensors = {"w": w} | ({"classes": classes} if weighted else {})
    forward = model_of(nodes, {"labels": (TensorProto.INT64, list(labels.shape))}, "total", tensors)
    step = differentiate(
        forward, loss="output:total", optimizer=Optimizer("sgd", 1.0), device=device, parameters=["w"]
    )  # fmt: skip
    result = run_steps(step, {"labels": labels})[0]
    leaf = torch.from_numpy(w).double().requires_grad_()
    function = F.cross_entropy if op_type == "SoftmaxCrossEntropyLoss" else F.nll_loss
    weight = torch.from_numpy(classes).double() if weighted else None
    more = {} if ignored is None else {"ignore_index": ignored}
    loss = (function(leaf, torch.from_numpy(labels), weight, reduction=reduction, **more) ** 2).sum()
    loss.backward()
    assert float(result["total"]) == pytest.approx(float(loss.detach()), rel=1e-4)
    np.testing.assert_allclose(result["w.next"], w - leaf.grad.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_training_batch_norm_and_its_running_statistics(device: str) -> None:
    """ONNX moves the running variance by the biased batch variance; torch by the unbiased one."""
    shapes = {"g": 1.0 + 0.1 * normal(1, 3), "b": normal(2, 3), "mean": normal(3, 3), "var": np.abs(normal(4, 3))}
    x = 2.0 * normal(5, 4, 3, 5, 2) + 0.7
    nodes = [
        helper.make_node("Add", ["x", "shift"], ["moved"]),
        helper.make_node(
            "BatchNormalization", ["moved", *shapes], ["y", "mean.next", "var.next"], training_mode=1, momentum=0.8
        ),
    ]
    tensors = {**shapes, "shift": normal(6, *x.shape)}
    forward = model_of(nodes, {"x": (TensorProto.FLOAT, list(x.shape))}, "y", tensors)
    learned = ["g", "b", "shift"]
    step = differentiate(forward, loss="mse", optimizer=Optimizer("sgd", 1.0), device=device, parameters=learned)
    feeds = random_batch(step) | {"x": x}
    leaves = {n: torch.from_numpy(tensors[n]).double().requires_grad_() for n in learned}
    mean, variance = (torch.from_numpy(tensors[n]).double() for n in ("mean", "var"))
    count = x.size // 3
    first, second = run_steps(step, feeds, 2)
    y = F.batch_norm(
        torch.from_numpy(x).double() + leaves["shift"], mean, variance, leaves["g"], leaves["b"], True, 0.2
    )
    F.mse_loss(y, torch.from_numpy(feeds["target"]).double()).backward()
    for name in learned:
        np.testing.assert_allclose(first[f"{name}.next"], tensors[name] - leaves[name].grad.numpy(), atol=2e-5)
    np.testing.assert_allclose(first["mean.next"], mean.numpy(), atol=1e-5)
    biased = 0.8 * tensors["var"] + (variance.numpy() - 0.8 * tensors["var"]) * (count - 1) / count
    np.testing.assert_allclose(first["var.next"], biased, rtol=1e-5)
    assert not np.allclose(second["mean.next"], first["mean.next"])


def test_dropout_uses_one_mask_forward_and_backward() -> None:
    """The gradient of a dropped element is zero, of a kept one 1 / (1 - ratio); the mask differs between steps."""
    w = normal(1, 40, 50)
    constants = {"ratio": np.float32(0.3), "training": np.array(True)}
    nodes = [
        helper.make_node("Dropout", ["w", "ratio", "training"], ["y"], seed=7),
        helper.make_node("ReduceSum", ["y"], ["total"], keepdims=0),
    ]
    forward = model_of(nodes, {}, "total", {"w": w, **{n: np.asarray(v) for n, v in constants.items()}})
    step = differentiate(forward, loss="output", optimizer=Optimizer("sgd", 1.0), parameters=["w"])
    first, second = run_steps(step, {}, 2)
    gradient = w - first["w.next"]
    kept = np.abs(gradient) > 0.5
    np.testing.assert_allclose(gradient[kept], 1 / 0.7, rtol=1e-4)
    np.testing.assert_allclose(gradient[~kept], 0, atol=1e-6)
    assert float(first["total"]) == pytest.approx(float((w * kept).sum() / 0.7), rel=1e-3)
    assert 0.6 < kept.mean() < 0.8
    assert not np.array_equal(kept, np.abs(first["w.next"] - second["w.next"]) > 0.5)


@pytest.mark.parametrize(("rows", "device"), [(7, "cpu"), (7, "cuda"), (1 << 20, "cuda")])
def test_embedding_sums_equal_ids(rows: int, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The forms of standard operators: scatter on the CPU, one-hot for small tables, a segmented scan for large ones."""
    ids = np.random.default_rng(1).integers(0, 7, size=(9, 11))
    table = np.zeros((rows, 3), np.float32)
    table[:7] = normal(2, 7, 3)
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("Mul", ["rows", "weights"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted"], ["total"], keepdims=0),
    ]
    weights = normal(3, 9, 11, 3)
    forward = model_of(nodes, {"ids": (TensorProto.INT64, [9, 11])}, "total", {"table": table, "weights": weights})
    tables = {"cpu": CPU, "cuda": replace(CUDA, kernels=False)}  # with kernels there is one operator for it
    monkeypatch.setattr(sys.modules["planc.training.differentiate"], "table_for", tables.__getitem__)
    step = differentiate(forward, loss="output", optimizer=Optimizer("sgd", 1.0), device=device, parameters=["table"])
    assert ("TopK" in {n.op_type for n in step.graph.node}) == (rows > 7)
    result = run_steps(step, {"ids": ids})[0]
    expected = np.zeros((rows, 3))
    np.add.at(expected, ids.ravel(), weights.reshape(-1, 3).astype(np.float64))
    np.testing.assert_allclose(result["table.next"], table - expected, atol=1e-5)


def test_tied_weights_accumulate_before_one_update() -> None:
    """y = (x W) W^T with one W: both contributions, one update, after both readers."""
    w = normal(1, 4, 4)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Gemm", ["h", "w"], ["y"], transB=1)]
    forward = model_of(nodes, {"x": (TensorProto.FLOAT, [3, 4])}, "y", {"w": w})
    step = differentiate(forward, loss="mse", optimizer=Optimizer("sgd", 1.0))
    feeds = random_batch(step)
    leaf = torch.from_numpy(w).double().requires_grad_()
    F.mse_loss(
        torch.from_numpy(feeds["x"]).double() @ leaf @ leaf.T, torch.from_numpy(feeds["target"]).double()
    ).backward()
    np.testing.assert_allclose(run_steps(step, feeds)[0]["w.next"], w - leaf.grad.numpy(), rtol=1e-4, atol=1e-5)


def split_parts(parts: Any) -> list[str]:
    return [f"part{i}" for i in range(parts)]


def test_split_with_an_unused_part() -> None:
    """The part without a gradient contributes zeros."""
    w = normal(1, 3, 6)
    nodes = [
        helper.make_node("Split", ["w"], split_parts(3), axis=1, num_outputs=3),
        helper.make_node("Mul", ["part0", "part2"], ["product"]),
        helper.make_node("ReduceSum", ["product"], ["total"], keepdims=0),
    ]
    step = differentiate(
        model_of(nodes, {}, "total", {"w": w}), loss="output", optimizer=Optimizer("sgd", 1.0), parameters=["w"]
    )  # fmt: skip
    gradient = np.concatenate([w[:, 4:], np.zeros((3, 2), np.float32), w[:, :2]], axis=1)
    np.testing.assert_allclose(run_steps(step, {})[0]["w.next"], w - gradient, atol=1e-6)
