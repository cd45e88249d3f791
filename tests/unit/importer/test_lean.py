"""Weights stay in their file: the rest of the model is what the library reads, and values come when they are asked for."""

import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from support import networks
from support.plans import random_plan

from planc.errors import ModelError
from planc.graph.wellformed import is_external
from planc.importer.import_model import import_model
from planc.importer.lean import lean_model
from planc.importer.weights import filled
from planc.runtime.measure import measure
from planc.runtime.step import load

LARGE, SMALL = 2048, 16


def _model() -> onnx.ModelProto:
    """Initializers in every way that ONNX has, large and small."""
    rng = np.random.default_rng(0)
    values = {"a": rng.standard_normal(LARGE), "b": rng.integers(0, 9, LARGE), "c": rng.standard_normal(SMALL)}
    tensors = [numpy_helper.from_array(value, name) for name, value in values.items()]
    tensors.append(helper.make_tensor("typed", TensorProto.FLOAT, [LARGE], rng.standard_normal(LARGE)))
    nodes = [helper.make_node("Identity", [name], [f"{name}.out"]) for name in (*values, "typed")]
    outputs = [helper.make_tensor_value_info(f"{t.name}.out", t.data_type, t.dims) for t in tensors]
    graph = helper.make_graph(nodes, "g", [], outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def _whole(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    for tensor in whole.graph.initializer:
        tensor.CopyFrom(filled(tensor, folder))
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
    return whole


@pytest.mark.parametrize("model", [_model(), networks.cnn().file.proto], ids=["tensors", "cnn"])
def test_the_model_is_the_one_in_the_file(model: onnx.ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    lean = lean_model(path)
    assert lean.ByteSize() < model.ByteSize()
    assert _whole(lean, tmp_path) == onnx.load(path)


def test_only_large_raw_data_stays_in_the_file(tmp_path: Path) -> None:
    onnx.save(_model(), tmp_path / "m.onnx")
    left = {tensor.name for tensor in lean_model(tmp_path / "m.onnx").graph.initializer if is_external(tensor)}
    assert left == {"a", "b"}


def test_data_that_lie_in_another_file_stay_there(tmp_path: Path) -> None:
    onnx.save(_model(), tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    found = {
        e.value
        for t in lean_model(tmp_path / "m.onnx").graph.initializer
        for e in t.external_data
        if e.key == "location"
    }
    assert found == {"m.data"}


def test_fields_in_any_order_and_unknown_ones_are_kept(tmp_path: Path) -> None:
    """The name and type of a tensor may follow its data."""
    data = np.arange(LARGE, dtype=np.float32).tobytes()
    first, rest = TensorProto(raw_data=data), TensorProto(name="a", dims=[LARGE], data_type=TensorProto.FLOAT)
    tensor = first.SerializeToString() + rest.SerializeToString() + b"\xa0\x3f\x07"  # field 1012: 7
    graph = _field(5, tensor) + onnx.GraphProto(name="g").SerializeToString()
    path = tmp_path / "m.onnx"
    path.write_bytes(onnx.ModelProto(ir_version=10).SerializeToString() + _field(7, graph))
    assert _whole(lean_model(path), tmp_path) == onnx.load(path)


def _field(number: int, content: bytes) -> bytes:
    found, value = bytearray([number << 3 | 2]), len(content)
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value]) + content


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 4))
def test_a_damaged_file_is_read_as_the_library_reads_it_or_refused(tmp_path_factory, seed: int, changes: int) -> None:
    rng, path = random.Random(seed), tmp_path_factory.getbasetemp() / "damaged.onnx"
    data = bytearray(_model().SerializeToString())
    for _ in range(changes):
        at = rng.choice([rng.randrange(64), rng.randrange(len(data)), len(data) - 1 - rng.randrange(64)])
        data[at] = rng.randrange(256)
    path.write_bytes(data if rng.random() < 0.8 else data[: rng.randrange(len(data))])
    try:
        expected = onnx.load(path, load_external_data=False)
    except DecodeError:
        with pytest.raises(DecodeError):
            lean_model(path)
        return
    try:
        assert _whole(lean_model(path), path.parent).SerializeToString(deterministic=True) == _whole(
            expected, path.parent
        ).SerializeToString(deterministic=True)
    except ModelError:  # the damage made external data of an initializer, whose file there is not
        assert any(is_external(tensor) for tensor in expected.graph.initializer)


def test_a_file_that_was_replaced_is_not_read_further(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(networks.cnn().file.proto, path)
    imported = import_model(path)
    plan = random_plan(imported, 1)
    with load(plan, imported) as step:
        assert measure(step, 2, 0, compare=True).bitwise_equal is True
    path.write_bytes(path.read_bytes() + b"\x0a\x00")
    with pytest.raises(ModelError, match=r"m\.onnx: the file was changed after it was read"):
        load(plan, imported)
