"""RMS-norms that a forward model writes out: one operator in the forms for a card, with the gradients of the parts."""

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.training_contract import violations
from support.training_steps import run_steps

from planc.training import Optimizer, differentiate
from planc.training.layout.calls import is_call

WIDTH = 12


def node(op_type: str, inputs: str, output: str) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs.split(), [output], name=output)


SQUARES = {"pow": node("Pow", "x two", "square"), "product": node("Mul", "x x", "square")}
INVERSES = {
    "reciprocal": [node("Reciprocal", "root", "inverse"), node("Mul", "x inverse", "normed")],
    "one divided": [node("Div", "one root", "inverse"), node("Mul", "inverse x", "normed")],
    "divided": [node("Div", "x root", "normed")],
}


def _forward(square: str, inverse: str, scale: Sequence[int] = (WIDTH,), extra: str = "") -> onnx.ModelProto:
    """mean((x w, normed and scaled)^2), with something else that reads `extra`."""
    nodes = [
        node("MatMul", "input w", "x"), SQUARES[square], node("ReduceMean", "square last", "mean"),
        node("Add", "mean epsilon", "shifted"), node("Sqrt", "shifted", "root"), *INVERSES[inverse],
        node("Mul", "scale normed", "y"), node("Mul", "y y", "squares"),
        *([node("Add", f"squares {extra}", "ends")] if extra else [node("Identity", "squares", "ends")]),
        helper.make_node("ReduceMean", ["ends"], ["loss"], keepdims=0),
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    arrays = {
        "w": rng.standard_normal((5, WIDTH)), "scale": rng.standard_normal(scale), "two": 2.0, "one": 1.0,
        "epsilon": 1e-3,
    }  # fmt: skip
    tensors = [numpy_helper.from_array(np.asarray(a, np.float32), name) for name, a in arrays.items()]
    tensors.append(numpy_helper.from_array(np.array([-1]), "last"))
    infos = [helper.make_tensor_value_info("input", TensorProto.FLOAT, [2, 3, 5])]
    graph = helper.make_graph(
        nodes, "m", infos, [helper.make_tensor_value_info("loss", TensorProto.FLOAT, [])], tensors
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def _steps(forward: onnx.ModelProto) -> list[onnx.ModelProto]:
    return [
        differentiate(forward, loss="output", optimizer=Optimizer("sgd", 1.0), parameters=["w", "scale"], device=device)
        for device in ("cuda", "cpu")
    ]


@pytest.mark.parametrize("square", SQUARES)
@pytest.mark.parametrize("inverse", INVERSES)
def test_a_written_out_norm_is_one_operator(square: str, inverse: str) -> None:
    card, plain = _steps(_forward(square, inverse))
    assert violations(card) == []
    for operator in ("LayerNorm", "LayerNormGradient"):
        assert len([n for n in card.graph.node if is_call(n, operator)]) == 1
    feeds = {"input": np.random.default_rng(1).standard_normal((2, 3, 5)).astype(np.float32)}
    mine, theirs = (run_steps(step, feeds)[0] for step in (card, plain))
    for name in ("w.next", "scale.next"):
        np.testing.assert_allclose(mine[name], theirs[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("scale", "extra"), [((1,), ""), ((3, WIDTH), ""), ((WIDTH,), "mean"), ((WIDTH,), "normed")], ids=str
)
def test_what_only_looks_like_one_is_left_alone(scale: tuple[int, ...], extra: str) -> None:
    card, plain = _steps(_forward("pow", "reciprocal", scale, extra))
    assert not [n for n in card.graph.node if is_call(n, "LayerNorm")]
    feeds = {"input": np.random.default_rng(1).standard_normal((2, 3, 5)).astype(np.float32)}
    mine, theirs = (run_steps(step, feeds)[0] for step in (card, plain))
    np.testing.assert_allclose(mine["w.next"], theirs["w.next"], rtol=1e-5, atol=1e-6)
