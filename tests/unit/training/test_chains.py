"""What element-wise chains take over: biases of products, widening casts of gradients, links of other chains."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from support.whole_graph import run_all

from planc.graph.annotations import annotate_node, node_annotation
from planc.importer.import_model import import_model
from planc.training import Optimizer, differentiate
from planc.zoo import ZooOptions, build_forward

GPT2 = ZooOptions(batch=2, seq=16, depth=1, width=64, classes=50)
BIASES, WIDENING, LINKS = (
    f"planc.training.finish.{name}" for name in ("biases_into_chains", "widen_in_updates", "recompute_links")
)


def _gpt2(precision: str) -> onnx.ModelProto:
    built = build_forward("gpt2", GPT2)
    return differentiate(
        built.model, loss=built.loss, optimizer=Optimizer("momentum", learning_rate=0.1), device="cuda",
        precision=precision, parameters=built.parameters,
    )  # fmt: skip


def _without(monkeypatch: pytest.MonkeyPatch, passes: str, make: Callable[[], onnx.ModelProto]) -> onnx.ModelProto:
    with monkeypatch.context() as patch:
        patch.setattr(passes, lambda _b, nodes, _kept: list(nodes))
        return make()


def _biased(model: onnx.ModelProto) -> list[str]:
    """The products that have a bias of their own."""
    return [node.output[0] for node in model.graph.node if node.op_type == "Gemm" and len(node.input) > 2]


def _forward(tail: list[onnx.NodeProto], outputs: list[str], dtype: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """x [6, 5, 8] W [8, 16] + bias, then `tail`."""
    rng = np.random.default_rng(0)
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    weights = {"w": rng.standard_normal((8, 16)), "bias": rng.standard_normal(16) * 2}
    nodes = [
        helper.make_node("Reshape", ["x", "rows"], ["flat"]), helper.make_node("Gemm", ["flat", "w", "bias"], ["y"]),
        helper.make_node("Reshape", ["y", "whole"], ["z"]), *tail,
    ]  # fmt: skip
    shapes = {"rows": [30, 8], "whole": [6, 5, 16]}
    tensors = [numpy_helper.from_array(v.astype(kind), n) for n, v in weights.items()]
    tensors += [numpy_helper.from_array(np.array(v, np.int64), n) for n, v in shapes.items()]
    ends = [helper.make_tensor_value_info(name, dtype, None) for name in outputs]
    graph = helper.make_graph(nodes, "f", [helper.make_tensor_value_info("x", dtype, [6, 5, 8])], ends, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


MEAN = helper.make_node("ReduceMean", ["a"], ["loss"], keepdims=0)


def _step(tail: list[onnx.NodeProto], outputs: tuple[str, ...] = ()) -> onnx.ModelProto:
    model = _forward(tail, ["loss", *outputs])
    return differentiate(model, loss="output", optimizer=Optimizer("sgd"), device="cuda", outputs=outputs)


def test_only_products_that_chains_alone_read_lose_their_bias() -> None:
    tanh = helper.make_node("Tanh", ["z"], ["a"])
    assert _biased(_step([tanh, MEAN])) == []
    assert _biased(_step([tanh, MEAN], ("y",))) == ["y"]
    softmax = helper.make_node("Softmax", ["z"], ["s"], axis=-1)
    assert _biased(_step([softmax, helper.make_node("Mul", ["s", "z"], ["a"]), MEAN])) == ["y"]


def test_what_attention_reads_keeps_its_bias() -> None:
    assert len(_biased(_gpt2("float32"))) == GPT2.depth
    assert all("c_attn" in name for name in _biased(_gpt2("float32")))


def test_a_step_computes_the_same_whoever_adds_the_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    apart = _without(monkeypatch, BIASES, lambda: _gpt2("float32"))
    found, wanted = (run_all(import_model(m, fused=True)) for m in (_gpt2("float32"), apart))
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert np.abs(found[name] - value).max() <= 2e-6 * max(1.0, float(np.abs(value).max())), name


def test_the_sum_is_added_again_backward_and_not_kept() -> None:
    node = helper.make_node
    gated = [node("Tanh", ["z"], ["t"]), node("Sigmoid", ["z"], ["s"]), node("Mul", ["t", "s"], ["a"])]
    step = _step([*gated, MEAN])
    graph = import_model(step, fused=True).graph
    sums = [node for node in step.graph.node if node.op_type == "Add" and "bias" in node.input]
    phases = [(node_annotation(node) or ("", "", ""))[2] for node in sums]
    assert "forward" in phases
    for node in sums:
        assert node.output[0] not in {graph.tensors[t].name for op in graph.ops for t in op.outputs if t >= 0}


@pytest.mark.parametrize("spread", [0.1, 10.0])
def test_a_half_bias_costs_less_than_another_rounding(spread: float) -> None:
    """At most 1.5 times torch's error from float64, whose product and bias are rounded once."""
    rng = np.random.default_rng(3)
    x, w = (rng.standard_normal(s).astype(np.float16) for s in ((30, 8), (8, 16)))
    bias = (rng.standard_normal(16) * spread).astype(np.float32)
    exact = x.astype(np.float64) @ w.astype(np.float64) + bias
    halves = [torch.from_numpy(a.astype(np.float16)) for a in (x, w, bias)]
    usual = torch.addmm(halves[2], halves[0], halves[1]).double().numpy()
    product = (x.astype(np.float32) @ w.astype(np.float32)).astype(np.float16)
    found = (product.astype(np.float32) + bias).astype(np.float16).astype(np.float64)
    assert np.linalg.norm(found - exact) <= 1.5 * np.linalg.norm(usual - exact)


def test_gradients_are_widened_inside_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    model, apart = _gpt2("float16"), _without(monkeypatch, WIDENING, lambda: _gpt2("float16"))

    def casts(model: onnx.ModelProto) -> int:
        """Layers of the backward phase that are a cast alone."""
        graph = import_model(model, fused=True).graph
        return sum(layer.kind == "cast" and layer.phase == "backward" for layer in graph.layers)

    assert casts(model) == 1 < casts(apart)  # the tied table's is left: its embedding's gradient adds to it
    found, wanted = (run_all(import_model(m, fused=True)) for m in (model, apart))
    for name, value in wanted.items():  # the CPU provider leaves out the rounding between its own casts
        error = np.linalg.norm(found[name].astype(np.float64) - value)
        assert error <= 2.0**-11 * np.linalg.norm(value.astype(np.float64)), name


def _llama() -> onnx.ModelProto:
    built = build_forward("llama", ZooOptions(batch=2, seq=16, depth=1, width=256, classes=50))
    return differentiate(
        built.model, loss=built.loss, optimizer=Optimizer("sgd"), device="cuda", parameters=built.parameters
    )


def _saved_bytes(model: onnx.ModelProto) -> int:
    """Of the tensors that forward layers make and backward layers read."""
    graph = import_model(model, fused=True).graph
    phase = [layer.phase for layer in graph.layers for _ in range(layer.start, layer.stop)]
    made = {s for op, storages in enumerate(graph.op_writes) if phase[op] == "forward" for s in storages}
    read = {s for op, storages in enumerate(graph.op_reads) if phase[op] == "backward" for s in storages}
    return sum(graph.storages[s].nbytes for s in made & read)


def test_a_gated_activation_keeps_its_operands_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model, apart = _llama(), _without(monkeypatch, LINKS, _llama)
    inner = next(
        i.type.tensor_type.shape.dim[0].dim_value for i in model.graph.input if i.name.endswith("gate_proj.weight")
    )
    assert _saved_bytes(apart) - _saved_bytes(model) == 2 * 2 * 16 * inner * 4
    found, wanted = (run_all(import_model(m, fused=True)) for m in (model, apart))
    assert {n: v.tobytes() for n, v in found.items()} == {n: v.tobytes() for n, v in wanted.items()}


def _made_backward(tail: list[onnx.NodeProto], op_type: str) -> int:
    nodes = _step([*tail, MEAN]).graph.node
    return sum(n.op_type == op_type and (node_annotation(n) or ("", "", ""))[2] == "backward" for n in nodes)


def test_a_link_is_computed_again_only_where_its_inputs_are_read_anyway() -> None:
    node = helper.make_node
    gated = [node("Sigmoid", ["z"], ["s"], name="act/s"), node("Mul", ["z", "s"], ["a"], name="act/a")]
    exponential = [node("Exp", ["z"], ["a"], name="act/a")]
    for nodes in (gated, exponential):
        for made in nodes:
            annotate_node(made, "act", "any", "forward")
    assert _made_backward(gated, "Sigmoid") == 1
    assert _made_backward(exponential, "Exp") == 0
