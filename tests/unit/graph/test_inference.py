"""Types found operator by operator are those that ONNX infers for the whole model."""

import subprocess
import sys
import tracemalloc
from itertools import chain
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.graphs import step_model
from support.zoo_networks import MOMENTUM, SMALL, small_step

from planc.errors import ModelError
from planc.importer.import_model import import_model
from planc.runtime.open import open_session


def whole(model: onnx.ModelProto) -> dict[str, tuple[int, tuple[int, ...]]]:
    """What ONNX says of every tensor that is no initializer alone."""
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True).graph
    return {
        info.name: (info.type.tensor_type.elem_type, tuple(d.dim_value for d in info.type.tensor_type.shape.dim))
        for info in chain(inferred.input, inferred.output, inferred.value_info)
    }


@pytest.mark.parametrize("name", sorted(SMALL.keys() - {"vgg19", "resnet34", "resnet101", "resnet152"}))
def test_networks_have_the_types_that_onnx_infers_for_the_whole_model(name: str) -> None:
    model = small_step(name, MOMENTUM)
    expected = whole(model)
    for tensor in import_model(model).graph.tensors:
        if tensor.name in expected:
            code, shape = expected[tensor.name]
            assert (tensor.dtype, tensor.shape) == (helper.tensor_dtype_to_np_dtype(code).name, shape)


def test_shapes_that_depend_on_computed_values_are_found() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "first"], ["rows"]),
        helper.make_node("Concat", ["rows", "rest"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["flat"]),
        helper.make_node("Relu", ["flat"], ["y"]),
    ]
    constants = {"first": np.array([0]), "rest": np.array([-1])}
    graph = import_model(step_model(nodes, {"x": [4, 2, 8]}, {"y": [4, 16]}, constants)).graph
    assert {t.name: t.shape for t in graph.tensors}["flat"] == (4, 16)


@pytest.mark.parametrize(
    ("op_type", "attributes"), [("MeanVarianceNormalization", {"axes": [0, 2, 3]}), ("Celu", {"alpha": 2.0})]
)
def test_operators_that_are_functions_are_expanded(op_type: str, attributes: dict[str, float | list[int]]) -> None:
    node = helper.make_node(op_type, ["x"], ["a"], **attributes)
    graph = import_model(
        step_model([node, helper.make_node("Relu", ["a"], ["y"])], {"x": [2, 3, 4, 4]}, {"y": [2, 3, 4, 4]})
    )
    assert {t.name: t.shape for t in graph.graph.tensors}["a"] == (2, 3, 4, 4)


def test_equal_operators_with_other_constants_are_told_apart() -> None:
    nodes = [helper.make_node("Reshape", ["x", "a"], ["p"]), helper.make_node("Reshape", ["x", "b"], ["q"])]
    constants = {"a": np.array([2, 6]), "b": np.array([3, 4])}
    graph = import_model(step_model(nodes, {"x": [12]}, {"p": [2, 6], "q": [3, 4]}, constants)).graph
    shapes = {t.name: t.shape for t in graph.tensors}
    assert (shapes["p"], shapes["q"]) == ((2, 6), (3, 4))


def test_equal_operators_with_other_attributes_are_told_apart() -> None:
    nodes = [helper.make_node("Transpose", ["x"], [f"y{i}"], perm=p) for i, p in enumerate([(0, 2, 1), (2, 0, 1)])]
    graph = import_model(step_model(nodes, {"x": [2, 3, 4]}, {"y0": [2, 4, 3], "y1": [4, 2, 3]})).graph
    shapes = {t.name: t.shape for t in graph.tensors}
    assert (shapes["y0"], shapes["y1"]) == ((2, 4, 3), (4, 2, 3))


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([helper.make_node("Add", ["x", "k"], ["y"], name="sum")], "not a valid ONNX model"),
        ([helper.make_node("Relu", ["x", "x"], ["y"], name="two")], "not a valid ONNX model.*two"),
        ([helper.make_node("Conv", ["x", "x"], ["y"], name="conv", group=-1)], "not a valid ONNX model"),
        ([helper.make_node("NoSuchOperator", ["x"], ["y"], name="odd")], "not a valid ONNX model.*NoSuchOperator"),
        ([helper.make_node("Relu", ["x"], ["y"], name="odd", spin=3)], "not a valid ONNX model.*spin"),
    ],
)
def test_operators_that_onnx_refuses_are_refused(nodes: list[onnx.NodeProto], message: str) -> None:
    fine = [helper.make_node("Relu", ["x"], ["x1"], name="fine")]
    with pytest.raises(ModelError, match=message):
        import_model(step_model([*fine, *nodes], {"x": [4, 8]}, {"y": [4, 8]}, {"k": np.ones(8, np.int64)}))


@pytest.mark.parametrize(
    ("code", "shape", "said"),
    [(TensorProto.FLOAT, [4, 9], r"FLOAT \[4, 9\]"), (TensorProto.INT64, [4, 8], "INT64"), (1, [4], r"FLOAT \[4\]")],
)
def test_an_inner_tensor_declared_otherwise_is_refused(code: int, shape: list[int], said: str) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Neg", ["a"], ["y"])]
    model = step_model(nodes, {"x": [4, 8]}, {"y": [4, 8]})
    model.graph.value_info.append(helper.make_tensor_value_info("a", code, shape))
    with pytest.raises(ModelError, match=rf"'a' is declared as {said}.*FLOAT \[4, 8\]"):
        import_model(model)
    with pytest.raises(onnx.shape_inference.InferenceError):
        whole(model)


@pytest.mark.parametrize("opset", [13, 18, 19, 22])
@pytest.mark.parametrize("op_type", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize(
    "sizes", [(5, 1, 3, 0, 0), (5, 2, 2, 1, 1), (7, 3, 4, 1, 1), (8, 2, 3, 0, 1), (6, 3, 2, 0, 0), (9, 4, 3, 1, 1)]
)
def test_pools_that_round_up_have_the_shape_that_the_runtime_gives_them(
    op_type: str, sizes: tuple[int, ...], opset: int
) -> None:
    """Of a last window that begins in the padding ONNX makes an element in some opsets, the runtime in none."""
    size, kernel, stride, before, after = sizes
    pads = [before, before, after, after]
    node = helper.make_node(
        op_type, ["x"], ["y"], kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pads, ceil_mode=1
    )
    graph = helper.make_graph(
        [node], "pool", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, size, size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    session = open_session(model.SerializeToString(), "cpu")
    (run,) = session.run(None, {"x": np.zeros((1, 1, size, size), np.float32)})
    tensors = {t.name: t.shape for t in import_model(model).graph.tensors}
    assert tensors["y"] == run.shape


def test_a_flat_tensor_costs_no_more_than_any_other() -> None:
    """Its values are not followed: with ONNX's data propagation this took gigabytes."""
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["z"]),
        helper.make_node("Shape", ["z"], ["shape"]),
        helper.make_node("Div", ["shape", "two"], ["half"]),
        helper.make_node("Concat", ["half", "two"], ["target"], axis=0),
        helper.make_node("Reshape", ["z", "target"], ["y"]),
    ]
    model = step_model(nodes, {"x": [1 << 26]}, {"y": [1 << 25, 2]}, {"two": np.array([2])})
    tracemalloc.start()
    shapes = {t.name: t.shape for t in import_model(model).graph.tensors}
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert shapes["y"] == (1 << 25, 2)
    assert peak < 64 << 20


def test_a_training_graph_is_imported_without_the_evaluator_of_constants(tmp_path: Path) -> None:
    """It takes twelve megabytes of a process that counts them, and no shape of such a graph needs it."""
    path = tmp_path / "step.onnx"
    onnx.save(small_step("resnet18", MOMENTUM), path)
    code = "import sys; from planc.importer.import_model import import_model; import_model(sys.argv[1]); "
    code += "sys.exit('onnx.reference' in sys.modules)"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)


def test_values_that_several_nodes_share_are_computed_for_the_shape_that_asks() -> None:
    nodes = [
        helper.make_node("Add", ["two", "two"], ["four"]),
        helper.make_node("Mul", ["four", "four"], ["sixteen"]),
        helper.make_node("Concat", ["four", "sixteen"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["flat"]),
        helper.make_node("Relu", ["flat"], ["y"]),
    ]
    graph = import_model(step_model(nodes, {"x": [4, 2, 8]}, {"y": [4, 16]}, {"two": np.array([2])})).graph
    assert {t.name: t.shape for t in graph.tensors}["flat"] == (4, 16)


def test_frames_of_a_real_signal_are_one_sided_unless_the_model_says_otherwise() -> None:
    constants = {"step": np.int64(3), "window": np.ones(8, np.float32), "length": np.int64(8)}
    node = helper.make_node("STFT", ["x", *constants], ["y"])
    given = {name: np.asarray(value) for name, value in constants.items()}
    graph = import_model(step_model([node], {"x": [2, 20, 1]}, {"y": [2, 5, 5, 2]}, given)).graph
    assert {t.name: t.shape for t in graph.tensors}["y"] == (2, 5, 5, 2)
