"""What is put into a step comes out of it: byte orders, states without a place, types of elements, missing values."""

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from safetensors.numpy import load_file
from support import networks
from support.graphs import step_model
from support.plans import random_plan

from planc.errors import FeedError
from planc.graph.operators import is_random
from planc.importer.import_model import import_model
from planc.runtime.measure import synthetic_feeds
from planc.runtime.state import Generators, read_checkpoint, read_state, write_state
from planc.runtime.step import load

W = np.linspace(-1, 1, 512, dtype=np.float32)


def _model(**more: np.ndarray) -> onnx.ModelProto:
    """w is trained; `more` states are read by nothing."""
    nodes = [
        helper.make_node("Mul", ["w", "x"], ["y"]),
        helper.make_node("Sub", ["w", "y"], ["w2"]),
        helper.make_node("ReduceSum", ["y"], ["loss"], keepdims=0),
    ]
    shapes = {"w": [512], **{name: list(value.shape) for name, value in more.items()}}
    outputs = {"loss": [], "w2": [512], **{name: shape for name, shape in shapes.items() if name != "w"}}
    state = {"w": "w2", **{name: name for name in more}}
    return step_model(nodes, {"x": [512], **shapes}, outputs, {"w": W, **more}, state, "loss")


@pytest.mark.parametrize("tier", ["ram", "file"])
def test_arrays_of_another_byte_order_are_converted(tier: str, tmp_path: Path) -> None:
    imported = import_model(_model())
    place = "ram" if tier == "ram" else f"file:{tmp_path}"
    for seed in range(3):
        with load(random_plan(imported, seed), imported, host_tier=place) as step:
            feeds = synthetic_feeds(imported.graph, seed)
            want = step(feeds)["loss"]
            step.set_state({"w": W.astype(">f4")})
            assert step.state()["w"].tobytes() == W.tobytes()
            assert step({"x": feeds["x"].astype(">f4")})["loss"].tobytes() == want.tobytes()


def test_labels_of_another_byte_order_too() -> None:
    imported = networks.mlp()
    feeds = synthetic_feeds(imported.graph, 0)
    with load(random_plan(imported, 1), imported) as step:
        start = step.state()
        want = step(feeds)["loss"]
        step.set_state(start)
        assert step(feeds | {"labels": feeds["labels"].astype(">i8")})["loss"].tobytes() == want.tobytes()


def test_a_state_that_nothing_touches_is_kept(tmp_path: Path) -> None:
    imported = import_model(_model(buffer=W * 7))
    with load(random_plan(imported, 1), imported) as step:
        given = W.copy()
        step.set_state(step.state() | {"buffer": given})
        given[:] = 0  # whoever gave it may use its memory again
        step({"x": W})
        assert step.state()["buffer"].tobytes() == W.tobytes()
        step.state()["buffer"][:] = 1
        step.save_state(tmp_path / "s")
        assert load_file(tmp_path / "s")["buffer"].tobytes() == W.tobytes()
        assert step.run(["buffer"], {"x": W})[0].tobytes() == W.tobytes()
    with load(random_plan(imported, 2), imported) as step:
        assert step.state()["buffer"].tobytes() == (W * 7).tobytes()
        step.load_state(tmp_path / "s")
        assert step.state()["buffer"].tobytes() == W.tobytes()


def test_a_state_without_an_initial_value_has_to_be_given_one(tmp_path: Path) -> None:
    model = _model(buffer=W)
    kept = [tensor for tensor in model.graph.initializer if tensor.name != "w"]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    imported = import_model(model)
    with load(random_plan(imported, 1), imported) as step:
        for use in (lambda: step({"x": W}), step.state, lambda: step.save_state(tmp_path / "s")):
            with pytest.raises(FeedError, match="'w' has no initial value.*set_state or load_state"):
                use()
        step.set_state({"w": W, "buffer": W})
        step({"x": W})
    assert list(tmp_path.iterdir()) == []


def test_bfloat16_state_is_loaded_again(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["c"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["wide", "x"], ["sum"]),
        helper.make_node("Cast", ["sum"], ["c2"], to=TensorProto.BFLOAT16),
        helper.make_node("ReduceSum", ["sum"], ["loss"], keepdims=0),
    ]
    model = step_model(nodes, {"x": [512], "c": [512]}, {"loss": [], "c2": [512]}, {}, {"c": "c2"}, "loss")
    for value in (model.graph.input[1], model.graph.output[1]):
        value.type.tensor_type.elem_type = TensorProto.BFLOAT16
    model.graph.initializer.append(helper.make_tensor("c", TensorProto.BFLOAT16, [512], W))
    imported = import_model(model)
    with load(random_plan(imported, 1), imported) as step:
        step({"x": W})
        step.save_state(tmp_path / "s")
        saved, loss = step.state()["c"], step({"x": W})["loss"]
        step.load_state(tmp_path / "s")
        assert step.state()["c"].tobytes() == saved.tobytes()
        assert step({"x": W})["loss"].tobytes() == loss.tobytes()


TYPES = [
    np.bool_, np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64, np.float16, np.float32,
    np.float64, np.complex64, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2,
]  # fmt: skip


@pytest.mark.parametrize("dtype", TYPES, ids=lambda dtype: np.dtype(dtype).name)
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
def test_every_type_and_shape_comes_back_from_a_file(dtype: type, shape: tuple[int, ...], tmp_path: Path) -> None:
    value = np.ones(shape, dtype)
    write_state({"a": value}, tmp_path / "s", Generators(3, 4))
    found, generators = read_checkpoint(tmp_path / "s")
    assert (found["a"].dtype, found["a"].shape, found["a"].tobytes()) == (value.dtype, shape, value.tobytes())
    assert generators == Generators(3, 4)


@pytest.mark.parametrize("note", ["-1", "many", "1e9"])
def test_damaged_positions_of_generators_are_refused(note: str, tmp_path: Path) -> None:
    write_state({"a": W}, tmp_path / "s", Generators(1, 4))
    data = (tmp_path / "s").read_bytes()
    changed = data.replace(b'"planc.steps_drawn":"1"', f'"planc.steps_drawn":"{note}"'.encode())
    length = int.from_bytes(data[:8], "little") + len(changed) - len(data)
    (tmp_path / "s").write_bytes(length.to_bytes(8, "little") + changed[8:])
    with pytest.raises(FeedError, match="not a readable safetensors file"):
        read_checkpoint(tmp_path / "s")


def test_a_type_that_files_lack_is_named(tmp_path: Path) -> None:
    with pytest.raises(FeedError, match="'a' is complex128"):
        write_state({"a": np.ones(2, np.complex128)}, tmp_path / "s")
    with pytest.raises(FeedError, match="no such|No such"):
        read_state(tmp_path / "s")


def test_the_long_name_of_the_standard_domain_is_random_too() -> None:
    assert is_random("RandomNormal", "ai.onnx", False)
    assert is_random("Dropout", "ai.onnx", True)
