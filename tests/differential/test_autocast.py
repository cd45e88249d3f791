"""Mixed precision against `torch.autocast`: the types of what operators make, and errors no larger than torch's own."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.training_steps import run_steps

from planc.errors import ModelError, UsageError
from planc.graph.annotations import annotate_node, node_annotation
from planc.training import Optimizer, differentiate
from planc.training.emit.opset import BRAIN_OPSET
from planc.training.prepare.autocast import autocast
from planc.training.prepare.precision import PRECISIONS, precision_of, set_precision
from planc.training.prepare.prepare import infer_shapes

torch = pytest.importorskip("torch")
F = torch.nn.functional
BRAIN, FLOAT = TensorProto.BFLOAT16, TensorProto.FLOAT
node = helper.make_node


def _model(
    nodes: list[onnx.NodeProto],
    tensors: dict[str, np.ndarray],
    output: str,
    shape: tuple[int, ...] = (4, 6),
    opset: int = 18,
) -> onnx.ModelProto:
    inputs = [helper.make_tensor_value_info("x", FLOAT, shape)]
    outputs = [helper.make_tensor_value_info(output, FLOAT, None)]
    initial = [numpy_helper.from_array(value, name) for name, value in tensors.items()]
    graph = helper.make_graph(nodes, "model", inputs, outputs, initial)
    return infer_shapes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10))


def _types(model: onnx.ModelProto) -> dict[str, int]:
    graph = infer_shapes(model).graph
    return {i.name: i.type.tensor_type.elem_type for i in (*graph.value_info, *graph.output)}


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


NAMES = {
    "Relu": "relu", "Erf": "erf", "Sqrt": "sqrt", "Gelu": "gelu", "Tanh": "tanh", "Sigmoid": "sigmoid",
    "Softmax": "softmax", "LogSoftmax": "log_softmax", "Exp": "exp", "Log": "log", "Reciprocal": "reciprocal",
    "Softplus": "softplus", "ReduceSum": "sum", "ReduceMean": "mean", "ReduceProd": "prod",
    "ReduceLogSumExp": "logsumexp", "Tan": "tan",
    "Sinh": "sinh", "Cosh": "cosh", "Acos": "acos", "Asin": "asin", "Atan": "atan", "Neg": "neg", "Abs": "abs",
}  # fmt: skip
"""Torch's name of each ONNX operator of one input."""


@pytest.fixture(scope="module")
def float32_list() -> set[str]:
    """What autocast runs in float32 on a card, from the header in torch's wheel."""
    text = (Path(torch.__path__[0]) / "include/ATen/autocast_mode.h").read_text()
    listed = text[text.index("AT_FORALL_FP32(_)") : text.index("AT_FORALL_DIFFERENT")]
    return set(re.findall(r"_\((\w+)", listed))


@pytest.mark.parametrize("op_type", NAMES)
def test_what_reads_a_product_runs_in_the_type_of_torchs_list(op_type: str, float32_list: set[str]) -> None:
    nodes = [node("MatMul", ["x", "w"], ["h"]), node(op_type, ["h"], ["y"])]
    model = _model(nodes, {"w": normal(1, 6, 5)}, "y", opset=BRAIN_OPSET)
    autocast(model, BRAIN, ["w"])
    types = _types(model)
    assert types["h"] == BRAIN
    assert types["y"] == (FLOAT if NAMES[op_type] in float32_list else BRAIN)


def test_mixed_types_meet_in_the_widest_and_numbers_do_not_count() -> None:
    tensors = {"w": normal(1, 6, 6), "bias": normal(2, 6), "two": np.float32(2), "scale": normal(3, 6)}
    nodes = [
        node("MatMul", ["x", "w"], ["h"]), node("Add", ["bias", "h"], ["linear"]),
        node("Mul", ["linear", "two"], ["double"]),
        node("Mul", ["double", "scale"], ["scaled"]), node("Add", ["double", "x"], ["residual"]),
        node("Concat", ["scaled", "residual"], ["y"], axis=0),
    ]  # fmt: skip
    model = _model(nodes, tensors, "y", opset=BRAIN_OPSET)
    autocast(model, BRAIN, ["w", "bias", "scale"])
    types = _types(model)
    assert {name: types[name] for name in ("h", "linear", "double")} == dict.fromkeys(("h", "linear", "double"), BRAIN)
    assert {types[name] for name in ("scaled", "residual", "y")} == {FLOAT}


def test_a_value_is_narrowed_where_it_is_made_and_widened_where_it_is_read() -> None:
    nodes = [
        node("Softmax", ["x"], ["p"]), node("MatMul", ["p", "w"], ["h"]), node("MatMul", ["p", "w"], ["g"]),
        node("Exp", ["h"], ["y"]), node("Add", ["y", "g"], ["z"]),
    ]  # fmt: skip
    for part, layer in zip(nodes, ("first", "second", "third", "fourth", "fourth"), strict=True):
        annotate_node(part, layer, "any", "forward")
    model = _model(nodes, {"w": normal(1, 6, 6)}, "z", opset=BRAIN_OPSET)
    autocast(model, BRAIN, ["w"])
    casts = {n.output[0]: node_annotation(n)[0] for n in model.graph.node if n.op_type == "Cast"}
    assert casts == {"p.narrow": "first", "w.narrow": "w.narrow", "h.wide": "fourth", "g.wide": "fourth"}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_gradients_are_as_close_to_float64_as_those_of_torch(precision: str) -> None:
    """Two linear layers, GELU, layer-norm, a residual and the cross-entropy; one step of gradient descent."""
    rows, width, hidden = 64, 48, 96
    tensors = {
        "w1": normal(1, width, hidden) / 7, "b1": normal(2, hidden), "w2": normal(3, hidden, width) / 10,
        "b2": normal(4, width), "g": normal(5, width) / 4 + 1, "s": normal(6, width),
    }  # fmt: skip
    nodes = [
        node("LayerNormalization", ["x", "g", "s"], ["n"], axis=-1), node("MatMul", ["n", "w1"], ["h0"]),
        node("Add", ["h0", "b1"], ["h"]), node("Gelu", ["h"], ["a"]), node("Gemm", ["a", "w2", "b2"], ["o"]),
        node("Add", ["o", "x"], ["y"]),
    ]  # fmt: skip
    model = _model(nodes, tensors, "y", (rows, width), opset=20)
    step = differentiate(model, loss="cross-entropy", optimizer=Optimizer("sgd", 1.0), precision=precision)
    x, labels = normal(7, rows, width), np.random.default_rng(8).integers(0, width, rows)
    result = run_steps(step, {"x": x, "labels": labels})[0]
    ours = {name: value - result[f"{name}.next"] for name, value in tensors.items()}

    def of_torch(dtype: Any, mixed: bool) -> dict[str, np.ndarray]:
        leaves = {n: torch.from_numpy(v).to(dtype).requires_grad_() for n, v in tensors.items()}
        data = torch.from_numpy(x).to(dtype)
        half = torch.bfloat16 if precision == "bf16" else torch.float16
        with torch.autocast("cpu", half, enabled=mixed):
            normed = F.layer_norm(data, (width,), leaves["g"], leaves["s"])
            y = F.linear(F.gelu(F.linear(normed, leaves["w1"].T, leaves["b1"])), leaves["w2"].T, leaves["b2"]) + data
        F.cross_entropy(y.to(dtype), torch.from_numpy(labels)).backward()
        return {n: leaf.grad.double().numpy() for n, leaf in leaves.items()}

    exact, theirs = of_torch(torch.float64, False), of_torch(torch.float32, True)
    for name in tensors:
        error, allowed = (np.linalg.norm(found[name] - exact[name]) for found in (ours, theirs))
        assert error <= 1.5 * allowed + 1e-6, name


def test_a_pure_model_has_no_float32_state() -> None:
    tensors = {"w": normal(1, 6, 5), "b": normal(2, 5)}
    model = _model([node("Gemm", ["x", "w", "b"], ["y"])], tensors, "y")
    step = differentiate(model, loss="mse", optimizer=Optimizer("sgd", 0.5), precision="pure-bf16")
    assert {t.data_type for t in step.graph.initializer if t.name in tensors} == {BRAIN}


def test_an_operator_that_changed_its_meaning_is_refused_by_name() -> None:
    nodes = [node("GroupNormalization", ["x", "s", "b"], ["y"], name="norm", num_groups=2)]
    graph = helper.make_graph(nodes, "model", [], [])  # as a file may hold it; ONNX's own check refuses it, too
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    with pytest.raises(ModelError, match=r"'norm'.*21.*float16"):
        set_precision(model, "bf16", ["s", "b"])


def test_precisions_have_torchs_short_names() -> None:
    assert precision_of("bf16") == PRECISIONS["bfloat16"]
    with pytest.raises(UsageError, match="unknown precision 'int8'.*bf16"):
        precision_of("int8")
