"""Bad models: one message that names the file and the node or tensor."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.graphs import step_model

from planc.errors import ModelError
from planc.graph import annotations
from planc.importer.import_model import import_model

RELU = [helper.make_node("Relu", ["x"], ["y"], name="relu")]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere\.onnx: no such model file"):
        import_model(tmp_path / "nowhere.onnx")


@pytest.mark.parametrize("content", [b"", b"not a model at all", b"\x08\x07\x12\x04\xff\xff\xff\xff"])
def test_garbage_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"bad\.onnx"):
        import_model(path)


def test_a_truncated_model_is_refused(tmp_path: Path) -> None:
    data = step_model(RELU, {"x": [4, 8]}, {"y": [4, 8]}, {"x": np.ones((4, 8), np.float32)}).SerializeToString()
    path = tmp_path / "cut.onnx"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError, match=r"cut\.onnx"):
        import_model(path)


def test_control_flow_is_named() -> None:
    body = helper.make_graph([], "b", [], [])
    node = helper.make_node("If", ["c"], ["y"], name="choose", then_branch=body, else_branch=body)
    with pytest.raises(ModelError, match=r"'choose' is control flow \(If\)"):
        import_model(step_model([node], {"c": [1]}, {"y": [1]}))


def test_a_foreign_domain_is_named() -> None:
    node = helper.make_node("ConvGrad", ["x"], ["y"], name="conv_grad", domain="com.microsoft")
    with pytest.raises(ModelError, match=r"'conv_grad' is com\.microsoft\.ConvGrad.*planc import-ort"):
        import_model(step_model([node], {"x": [1]}, {"y": [1]}))


def test_a_sequence_is_named() -> None:
    node = helper.make_node("SequenceConstruct", ["x"], ["y"], name="list")
    with pytest.raises(ModelError, match="'list'.*sequence"):
        import_model(step_model([node], {"x": [1]}, {"y": [1]}))


def test_a_symbolic_dimension_is_named() -> None:
    with pytest.raises(ModelError, match=r"'[xy]'.*no concrete shape.*--dim"):
        import_model(step_model(RELU, {"x": ["batch", 8]}, {"y": ["batch", 8]}))


def test_strings_are_refused() -> None:
    model = step_model([helper.make_node("Identity", ["x"], ["y"], name="same")], {}, {})
    for values, name in ((model.graph.input, "x"), (model.graph.output, "y")):
        values.append(helper.make_tensor_value_info(name, TensorProto.STRING, [2]))
    with pytest.raises(ModelError, match="strings"):
        import_model(model)


def test_a_shape_that_contradicts_the_nodes_is_refused() -> None:
    with pytest.raises(ModelError, match="not a valid ONNX model"):
        import_model(step_model(RELU, {"x": [4, 8]}, {"y": [4, 9]}))


def test_state_metadata_must_name_an_input_and_an_output() -> None:
    with pytest.raises(ModelError, match="pairs state 'w' with 'w2'"):
        import_model(step_model(RELU, {"x": [4]}, {"y": [4]}, state={"w": "w2"}))


@pytest.mark.parametrize("key", [annotations.HYPERPARAMETERS, annotations.MICRO_BATCHES])
@pytest.mark.parametrize("value", [[["x"]], [{}], [None], [1], ["nothing"], {"x": "x"}, "x", None])
def test_metadata_that_lists_no_inputs_is_refused(key: str, value: object) -> None:
    model = step_model(RELU, {"x": [4]}, {"y": [4]})
    annotations.write_model(model, {key: json.dumps({"lr": value})})
    with pytest.raises(ModelError, match=rf"the metadata '{key}' holds 'lr'.*expected a list of inputs"):
        import_model(model)


@pytest.mark.parametrize("name", ["x", "w", "vector"])
def test_a_hyperparameter_without_one_number_of_its_own_is_refused(name: str) -> None:
    initial = {"w": np.ones(4), "vector": np.ones(4), "rate": np.ones(())}
    model = step_model(
        [*RELU, helper.make_node("Mul", ["w", "rate"], ["w2"])],
        {"x": [4], "w": [4], "vector": [4], "rate": []},
        {"y": [4], "w2": [4]},
        {key: value.astype(np.float32) for key, value in initial.items()},
        {"w": "w2"},
    )
    annotations.write_model(model, {annotations.HYPERPARAMETERS: json.dumps({"lr": ["rate", ""]})})
    assert import_model(model).hyperparameters == {"lr": ("rate", "")}
    annotations.write_model(model, {annotations.HYPERPARAMETERS: json.dumps({"lr": [name]})})
    with pytest.raises(ModelError, match=f"hyper-parameter 'lr' is the input {name!r}, expected one with a number"):
        import_model(model)


@pytest.mark.parametrize(
    "batches",
    [{"x": []}, {"x": ["z"]}, {"x": ["x", "x"]}, {"x": ["x", "w"]}, {"x": ["x", "other"]}, {"x": ["x", "z"], "z": ["z"]},
     {"none": ["x", "z"]}],
)  # fmt: skip
def test_micro_batches_that_are_no_parts_of_one_batch_are_refused(batches: dict[str, list[str]]) -> None:
    """Each is an input of its own that is no state, like the first, which has the batch's name."""
    nodes = [*RELU, helper.make_node("Mul", ["w", "z"], ["w2"])]
    inputs, outputs = {"x": [4], "z": [4], "w": [4], "other": [3]}, {"y": [4], "w2": [4]}
    model = step_model(nodes, inputs, outputs, {"w": np.ones(4, np.float32)}, {"w": "w2"})
    annotations.write_model(model, {annotations.MICRO_BATCHES: json.dumps({"x": ["x", "z"]})})
    assert import_model(model).micro_batches == {"x": ("x", "z")}
    annotations.write_model(model, {annotations.MICRO_BATCHES: json.dumps(batches)})
    with pytest.raises(ModelError, match="expected batch inputs of one type, the first of that name, each once"):
        import_model(model)


def test_state_may_not_change_its_shape() -> None:
    nodes = [helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)]
    with pytest.raises(ModelError, match="'x' and its next value 'y' differ"):
        import_model(step_model(nodes, {"x": [4]}, {"y": []}, state={"x": "y"}))


def test_the_hash_ignores_state_values_and_sees_constants() -> None:
    nodes = [helper.make_node("Mul", ["w", "c"], ["w2"])]

    def content_hash(w: float, c: float) -> str:
        initial = {"w": np.full(4, w, np.float32), "c": np.full(4, c, np.float32)}
        return import_model(step_model(nodes, {"w": [4]}, {"w2": [4]}, initial, {"w": "w2"})).graph.content_hash

    assert content_hash(1, 2) == content_hash(7, 2)
    assert content_hash(1, 2) != content_hash(1, 3)


def test_external_data_outside_the_folder_is_refused(tmp_path: Path) -> None:
    model = step_model(RELU, {"x": [4]}, {"y": [4]})
    tensor = TensorProto(name="secret", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../outside.bin")
    model.graph.initializer.append(tensor)
    (tmp_path / "outside.bin").write_bytes(bytes(16))
    folder = tmp_path / "inner"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"model\.onnx"):
        import_model(folder / "model.onnx")
    assert onnx.load(folder / "model.onnx", load_external_data=False).graph.initializer
