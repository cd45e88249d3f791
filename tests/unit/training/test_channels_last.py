"""Stretches of convolutions lie channels last for oneDNN: few transposes are left, and the numbers are those of the
portable form."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.training_steps import random_batch, run_steps

from planc.importer.import_model import import_model
from planc.runtime.measure import UnplannedStep
from planc.training import Optimizer, differentiate


def network() -> onnx.ModelProto:
    """A convolution under a ReLU6; its channels cut by Slice and by Split, swapped, joined, and convolved again."""
    rng = np.random.default_rng(0)
    weights = {"w1": (8, 3, 3, 3), "w2": (8, 8, 3, 3), "w3": (2, 8, 6, 6)}
    constants = {
        "low": np.float32(0), "high": np.float32(6), "starts": np.array([-4, 1]), "ends": np.array([2**62, 7]),
        "axes": np.array([1, -2]), "steps": np.array([1, 1]), "flat": np.array([2, 2]), "sizes": np.array([5, 3]),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], pads=[1] * 4),
        helper.make_node("Clip", ["a", "low", "high"], ["b"]),
        helper.make_node("Slice", ["b", "starts", "ends", "axes", "steps"], ["c"]),
        helper.make_node("Conv", ["b", "w2"], ["d"], pads=[0, 1, 0, 1]),
        helper.make_node("Split", ["d", "sizes"], ["e", "f"], axis=1),
        helper.make_node("Concat", ["f", "e"], ["g"], axis=1),
        helper.make_node("Concat", ["c", "c"], ["h"], axis=1),
        helper.make_node("Add", ["g", "h"], ["i"]),
        helper.make_node("Conv", ["i", "w3"], ["j"], strides=[1, 8]),
        helper.make_node("Reshape", ["j", "flat"], ["y"]),
    ]
    arrays = {name: (rng.standard_normal(shape) / 4).astype(np.float32) for name, shape in weights.items()}
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", (2, 3, 8, 8)), ("y", (2, 2)))]
    initial = [numpy_helper.from_array(np.asarray(a), name) for name, a in {**arrays, **constants}.items()]
    graph = helper.make_graph(nodes, "cut", infos[:1], infos[1:], initial)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def test_clips_slices_and_splits_stay_in_a_stretch() -> None:
    pytest.importorskip("planc.runtime.onednn.program")
    steps = {
        forms: differentiate(network(), loss="cross-entropy", optimizer=Optimizer("sgd"), device=forms)
        for forms in ("cpu", "onednn")
    }
    transposed = [node.input[0] for node in steps["onednn"].graph.node if node.op_type == "Transpose"]
    assert set(transposed) == {"x"}
    feeds = random_batch(steps["cpu"])
    expected, found = (UnplannedStep(import_model(step))(feeds) for step in steps.values())
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def test_a_permutation_that_is_not_written_out_reverses_the_axes_on_every_device() -> None:
    """Behind a convolution, whose stretch looks at every Transpose, and as the keys of attention, on cards."""
    rng = np.random.default_rng(0)
    shapes = {"w": (2, 2, 3, 3), "wk": (2, 2)}
    initial = [numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n) for n, s in shapes.items()]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["q"], pads=[1] * 4),
        helper.make_node("MatMul", ["q", "wk"], ["k"]),
        helper.make_node("Transpose", ["k"], ["turned"]),
        helper.make_node("MatMul", ["q", "turned"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["p"]),
        helper.make_node("MatMul", ["p", "q"], ["y"]),
        helper.make_node("ReduceSumSquare", ["y"], ["loss"], keepdims=0),
    ]
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", (2, 2, 2, 2)), ("loss", ()))]
    graph = helper.make_graph(nodes, "reversed", infos[:1], infos[1:], initial)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    forms = ("cpu", "onednn", "cuda")
    steps = [differentiate(model, loss="output", optimizer=Optimizer("sgd"), device=device) for device in forms]
    expected, *others = (run_steps(step, random_batch(step))[0] for step in steps)
    for found in others:
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
