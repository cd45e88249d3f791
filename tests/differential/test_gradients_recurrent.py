"""LSTM, GRU and RNN operators of a forward model, unrolled and differentiated, against torch's layers in float64."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.training_contract import violations
from support.training_steps import run_steps, state_pairs

from planc.errors import ModelError
from planc.training import Optimizer, differentiate

torch = pytest.importorskip("torch")

STEPS, BATCH, INPUT, HIDDEN = 4, 3, 5, 6
ORDER = {"LSTM": [0, 3, 1, 2], "GRU": [1, 0, 2], "RNN": [0]}
"""ONNX's gate order in terms of torch's."""


def reordered(kind: str, a: np.ndarray) -> np.ndarray:
    return np.concatenate([np.split(a, len(ORDER[kind]))[i] for i in ORDER[kind]])


def forward(kind: str, layer: Any, batch_first: bool, **settings: Any) -> onnx.ModelProto:
    suffixes = ["", "_reverse"][: 2 if layer.bidirectional else 1]
    get = {k: v.detach().numpy() for k, v in layer.named_parameters()}
    w, r = (np.stack([reordered(kind, get[f"weight_{p}h_l0{s}"]) for s in suffixes]) for p in "ih")
    b = np.stack([np.concatenate([reordered(kind, get[f"bias_{p}h_l0{s}"]) for p in "ih"]) for s in suffixes])
    shape = [BATCH, STEPS, INPUT] if batch_first else [STEPS, BATCH, INPUT]
    extra = {"linear_before_reset": 1} if kind == "GRU" else {}
    direction = "bidirectional" if layer.bidirectional else "forward"
    node = helper.make_node(
        kind, ["x", "w", "r", "b"], ["y", "last"], name="cell", hidden_size=HIDDEN, direction=direction,
        layout=int(batch_first), **extra, **settings,
    )  # fmt: skip
    nodes = [node, helper.make_node("ReduceSumSquare", ["y"], ["a"], keepdims=0)]
    nodes += [helper.make_node("ReduceSum", ["last"], ["c"], keepdims=0), helper.make_node("Add", ["a", "c"], ["loss"])]
    graph = helper.make_graph(
        nodes, "recurrent", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("loss", TensorProto.FLOAT, [])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in (("w", w), ("r", r), ("b", b))],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_recurrent_weights_get_torchs_gradient(kind: str, bidirectional: bool, batch_first: bool) -> None:
    torch.manual_seed(2)
    layer = getattr(torch.nn, kind)(INPUT, HIDDEN, bidirectional=bidirectional, batch_first=batch_first)
    step = differentiate(forward(kind, layer, batch_first), loss="output", optimizer=Optimizer("sgd", 1.0))
    assert violations(step) == []
    before = {t.name: numpy_helper.to_array(t) for t in step.graph.initializer}
    assert set(state_pairs(step)) >= {"w", "r", "b"}
    shape = (BATCH, STEPS, INPUT) if batch_first else (STEPS, BATCH, INPUT)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    (made,) = run_steps(step, {"x": x})
    wide = layer.double()
    y, last = wide(torch.from_numpy(x).double())
    loss = y.square().sum() + (last[0] if kind == "LSTM" else last).sum()
    loss.backward()
    np.testing.assert_allclose(made["loss"], loss.item(), rtol=1e-5)
    found = {name: before[name] - made[following] for name, following in state_pairs(step).items()}
    for d, suffix in enumerate(["", "_reverse"][: 2 if bidirectional else 1]):
        for name, part in (("w", "weight_ih"), ("r", "weight_hh")):
            expected = reordered(kind, getattr(wide, f"{part}_l0{suffix}").grad.numpy())
            np.testing.assert_allclose(found[name][d], expected, rtol=2e-4, atol=2e-5, err_msg=name)


def test_what_cannot_be_unrolled_is_refused() -> None:
    layer = torch.nn.LSTM(INPUT, HIDDEN)
    model = forward("LSTM", layer, False, clip=3.0)
    with pytest.raises(ModelError, match=r"node 'cell' \(LSTM\): clipping"):
        differentiate(model, loss="output", optimizer=Optimizer("sgd"))


def test_two_nodes_of_one_name_are_two() -> None:
    """ONNX asks for no names of nodes, and for no two of them."""
    torch.manual_seed(2)
    model = forward("GRU", torch.nn.GRU(INPUT, HIDDEN), False)
    second = onnx.NodeProto()
    second.CopyFrom(model.graph.node[0])
    second.output[:] = ["y of the second", "last of the second"]
    model.graph.node[-1].output[0] = "one"
    more = [second, helper.make_node("ReduceSum", [second.output[0]], ["other"], keepdims=0)]
    model.graph.node.extend([*more, helper.make_node("Add", ["one", "other"], ["loss"])])
    step = differentiate(model, loss="output", optimizer=Optimizer("sgd", 1.0))
    assert violations(step) == []
    x = np.random.default_rng(0).standard_normal((STEPS, BATCH, INPUT)).astype(np.float32)
    before = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    session = onnx.reference.ReferenceEvaluator(model)
    (made,) = run_steps(step, {"x": x})
    np.testing.assert_allclose(made["loss"], session.run(["loss"], {"x": x} | before)[0], rtol=1e-4)
