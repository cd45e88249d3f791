"""Training graphs in half precision that other tools wrote: refused on the CPU by name, planned once they are widened."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import planc
from planc.errors import ModelError
from planc.graph import annotations
from planc.runtime.ort.sessions import faithful_options

RATE = np.float16(0.125)


def half_step() -> onnx.ModelProto:
    """y = relu(x w), loss = mean y, w - rate x^T (y > 0) / n, all of it in float16, without types of inner tensors."""
    node = helper.make_node
    nodes = [
        node("MatMul", ["x", "w"], ["p"], name="product"),
        node("Relu", ["p"], ["y"], name="relu"),
        node("ReduceMean", ["y"], ["loss"], name="mean", keepdims=0),
        node("Sign", ["y"], ["s"], name="sign"),
        node("Mul", ["s", "share"], ["dy"], name="scale"),
        node("Transpose", ["x"], ["xt"], name="transpose", perm=[1, 0]),
        node("MatMul", ["xt", "dy"], ["dw"], name="gradient"),
        node("Mul", ["dw", "rate"], ["moved"], name="rate"),
        node("Sub", ["w", "moved"], ["w_next"], name="update"),
    ]
    half = TensorProto.FLOAT16
    w = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float16)
    constants = [numpy_helper.from_array(np.float16(1 / 20), "share"), numpy_helper.from_array(RATE, "rate")]
    graph = helper.make_graph(
        nodes,
        "step",
        [helper.make_tensor_value_info("x", half, [4, 6]), helper.make_tensor_value_info("w", half, [6, 5])],
        [helper.make_tensor_value_info("loss", half, []), helper.make_tensor_value_info("w_next", half, [6, 5])],
        [numpy_helper.from_array(w, "w"), *constants],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    annotations.write_model(model, {annotations.STATE: json.dumps({"w": "w_next"}), annotations.LOSS: "loss"})
    return model


def rounded(x: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The step with every operator in float32 and its result in float16."""

    def half(a: np.ndarray) -> np.ndarray:
        return a.astype(np.float16).astype(np.float32)

    x, w = x.astype(np.float32), w.astype(np.float32)
    y = np.maximum(half(x @ w), 0)
    dy = half(np.sign(y) * np.float32(np.float16(1 / 20)))
    moved = half(half(x.T @ dy) * np.float32(RATE))
    return half(y.mean()), half(w - moved)


def test_an_operator_without_a_kernel_is_named(tmp_path: Path) -> None:
    path = tmp_path / "half.onnx"
    onnx.save(half_step(), path)
    with pytest.raises(ModelError, match=r"half\.onnx: node 'product' \(MatMul\) computes in half.*planc widen"):
        planc.compile(path, device="cpu", time_limit=1.0)


def test_a_widened_graph_rounds_every_tensor_and_runs_planned_with_the_same_bits() -> None:
    model = half_step()
    wide = planc.widen(model, device="cpu")
    assert not any(node.op_type == "Cast" for node in model.graph.node)
    plan = planc.compile(wide, budget="max", device="cpu", time_limit=1.0)
    session = ort.InferenceSession(wide.SerializeToString(), faithful_options(), providers=["CPUExecutionProvider"])
    x, w = np.linspace(-1, 2, 24).astype(np.float16).reshape(4, 6), numpy_helper.to_array(model.graph.initializer[0])
    with planc.load(plan, wide) as step:
        for _ in range(3):
            unplanned = session.run(["loss", "w_next"], {"x": x, "w": w})
            loss, following = step.run(["loss", "w_next"], {"x": x})
            assert loss.tobytes() == unplanned[0].tobytes()
            assert following.tobytes() == unplanned[1].tobytes()
            exact_loss, exact_w = rounded(x, w)
            np.testing.assert_allclose(loss, exact_loss, rtol=2e-3)
            np.testing.assert_allclose(following, exact_w, rtol=2e-3, atol=1e-3)
            w = unplanned[1]
