"""Rotary embeddings that a forward model writes out: found, computed as before, and left where they are something else."""

from importlib import import_module
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.whole_graph import run_all

from planc.importer.import_model import import_model
from planc.training import Optimizer, differentiate
from planc.training.layout.calls import is_call
from planc.zoo import ZooOptions, build_forward

SEQ, HEADS, SIZE = 5, 3, 8
INT_MAX = (1 << 63) - 1


def _slices() -> list[onnx.NodeProto]:
    node = helper.make_node
    return [
        node("Slice", ["q", "zero", "half", "axis"], ["low"]),
        node("Slice", ["q", "half", "end", "axis"], ["high"]),
    ]


def _forward(halves: list[onnx.NodeProto], turned: list[str]) -> onnx.ModelProto:
    """q = x w [2, S, H, D]; the mean of (q cos + Concat(-turned[0], turned[1]) sin)^2."""
    node, rng = helper.make_node, np.random.default_rng(0)
    angles = rng.standard_normal((1, SEQ, 1, SIZE)).astype(np.float32)
    arrays: dict[str, Any] = {
        "w": rng.standard_normal((6, HEADS * SIZE)).astype(np.float32) / 2, "cos": np.cos(angles), "sin": np.sin(angles),
        "shape": np.array([2, SEQ, HEADS, SIZE]), "zero": np.array([0]), "half": np.array([SIZE // 2]),
        "end": np.array([INT_MAX]), "axis": np.array([-1]),
    }  # fmt: skip
    nodes = [
        node("MatMul", ["x", "w"], ["rows"]), node("Reshape", ["rows", "shape"], ["q"]), *halves,
        node("Neg", [turned[0]], ["minus"]), node("Concat", ["minus", turned[1]], ["turned"], axis=3),
        node("Mul", ["q", "cos"], ["straight"]), node("Mul", ["turned", "sin"], ["bent"]),
        node("Add", ["straight", "bent"], ["y"]), node("Mul", ["y", "y"], ["square"]),
        node("ReduceMean", ["square"], ["loss"], keepdims=0),
    ]  # fmt: skip
    infos = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2 * SEQ, 6])]
    ends = [helper.make_tensor_value_info("loss", TensorProto.FLOAT, [])]
    tensors = [numpy_helper.from_array(np.asarray(v), n) for n, v in arrays.items()]
    graph = helper.make_graph(nodes, "f", infos, ends, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def _step(forward: onnx.ModelProto, parameters: tuple[str, ...] = ("w",)) -> onnx.ModelProto:
    return differentiate(forward, loss="output", optimizer=Optimizer("sgd"), device="cuda", parameters=parameters)


def _rotations(model: onnx.ModelProto) -> int:
    return sum(is_call(node, "Rotary") for node in model.graph.node)


SPLIT = [helper.make_node("Split", ["q"], ["low", "high"], axis=3, num_outputs=2)]


@pytest.mark.parametrize("halves", [_slices(), SPLIT], ids=["slices", "split"])
def test_the_written_out_form_is_one_operator_each_way(
    halves: list[onnx.NodeProto], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _step(_forward(halves, ["high", "low"]))
    assert _rotations(model) == 2
    module = import_module("planc.training.differentiate")
    monkeypatch.setattr(module, "fuse_rotary", lambda _model, values, *_: values)
    plain = _step(_forward(halves, ["high", "low"]))
    assert _rotations(plain) == 0
    found, wanted = (run_all(import_model(m, fused=True)) for m in (model, plain))
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert np.allclose(found[name], value, rtol=1e-6, atol=1e-7), name


@pytest.mark.parametrize("turned", [["low", "high"], ["low", "low"], ["high", "high"]])
def test_other_turns_stay_written_out(turned: list[str]) -> None:
    assert _rotations(_step(_forward(_slices(), turned))) == 0


def test_trained_angles_stay_written_out() -> None:
    assert _rotations(_step(_forward(_slices(), ["high", "low"]), ("w", "cos"))) == 0


@pytest.mark.parametrize("precision", ["float32", "float16", "bf16"])
def test_a_llama_turns_queries_and_keys_without_a_cast(precision: str) -> None:
    built = build_forward("llama", ZooOptions(batch=2, seq=16, depth=1, width=256, classes=50))
    model = differentiate(
        built.model, loss=built.loss, optimizer=Optimizer("sgd"), device="cuda", precision=precision,
        parameters=built.parameters,
    )  # fmt: skip
    assert _rotations(model) == 4
    graph = import_model(model, fused=True).graph
    for op in graph.ops:
        if op.op_type.startswith("Rotary"):
            types = {graph.tensors[t].dtype for t in (op.inputs[0], op.outputs[0])}
            assert types == {{"bf16": "bfloat16"}.get(precision, precision)}
    layers = [layer for layer in graph.layers if layer.kind == "attention"]
    assert all(layer.stop - layer.start == 1 for layer in layers if "attn#3" not in layer.name)
