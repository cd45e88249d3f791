"""Reductions over leading axes in steps for a card: planc's own sums, NumPy's numbers, whatever wrote them."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from support.zoo_networks import MOMENTUM, small_forward

from planc.kernels import opset_id
from planc.runtime.ort.sessions import faithful_options
from planc.training import differentiate
from planc.training.emit.builder import Builder, Var
from planc.training.layout.calls import is_call
from planc.training.layout.row_sums import repeatable_sums

NUMPY = {
    "ReduceSum": lambda a, axes: a.sum(axes),
    "ReduceMean": lambda a, axes: a.mean(axes),
    "ReduceSumSquare": lambda a, axes: (a * a).sum(axes),
}


def _rewritten(op_type: str, shape: tuple[int, ...], axes: list[int], keepdims: bool) -> tuple[Builder, list, Var]:
    b = Builder()
    b.values["x"] = x = Var("x", shape, TensorProto.FLOAT)
    y = b.reduce(op_type, x, axes, keepdims)
    return b, repeatable_sums(b, b.nodes), y


def _run(b: Builder, nodes: list[onnx.NodeProto], x: np.ndarray, y: Var) -> np.ndarray:
    graph = helper.make_graph(
        nodes, "sums", [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info(y.name, TensorProto.FLOAT, y.shape)], list(b.initializers.values()),
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 18), opset_id()]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=list(b.functions.values()))
    onnx.checker.check_model(model)
    session = ort.InferenceSession(model.SerializeToString(), faithful_options(), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, {"x": x})[0]
    return found


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_what_is_written_anew_is_the_reduction(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.sampled_from([1, 2, 3, 5]), min_size=1, max_size=4)))
    axes = data.draw(st.lists(st.sampled_from(range(len(shape))), min_size=1, unique=True))
    op_type, keepdims = data.draw(st.sampled_from(sorted(NUMPY))), data.draw(st.booleans())
    b, nodes, y = _rewritten(op_type, shape, axes, keepdims)
    x = np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)
    exact = NUMPY[op_type](x.astype(np.float64), tuple(axes))
    assert np.allclose(_run(b, nodes, x, y).reshape(exact.shape), exact, rtol=1e-5, atol=1e-6)
    long = [axis for axis, size in enumerate(shape) if size > 1]
    leading = {axis in axes for axis in long[: sum(axis in axes for axis in long)]} == {True}
    assert leading == any(is_call(node, "RowSum") for node in nodes)
    assert leading != any(node.op_type == op_type for node in nodes)


@pytest.mark.parametrize("name", ["convnext_tiny", "vit_b16", "mobilenet_v2", "gpt2"])
def test_no_step_for_a_card_adds_rows_by_the_provider(name: str) -> None:
    built = small_forward(name)
    step = differentiate(built.model, loss=built.loss, optimizer=MOMENTUM, device="cuda", parameters=built.parameters)
    infos = [*step.graph.value_info, *step.graph.input, *step.graph.output]
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in infos}
    constants = {t.name: numpy_helper.to_array(t) for t in step.graph.initializer}
    for node in step.graph.node:
        if node.op_type.startswith("Reduce") and node.op_type in NUMPY:
            shape = shapes[node.input[0]]
            axes = [int(axis) % len(shape) for axis in constants[node.input[1]].ravel()]
            first = next(axis for axis, size in enumerate(shape) if size > 1)
            assert first not in axes, (node.name, shape, axes)
    assert any(is_call(node, "RowSum") for node in step.graph.node)
