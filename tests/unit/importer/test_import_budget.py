"""Reading a model has a budget of time and of bytes; what goes over it is told, with what to do."""

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.graphs import step_model
from support.zoo_networks import MOMENTUM, small_forward

from planc.errors import ModelError, UsageError
from planc.import_budget import BYTES, SECONDS, import_budget, spend_bytes, spend_time
from planc.importer.import_model import import_model
from planc.training import differentiate

NODES = [helper.make_node("Add", ["x", "c"], ["y"], name="shift")]


def _model(elements: int) -> onnx.ModelProto:
    return step_model(NODES, {"x": [elements]}, {"y": [elements]}, {"c": np.ones(elements, np.float32)})


def test_an_import_that_takes_too_long_ends_with_the_node_that_it_was_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SECONDS, "1e-9")
    with pytest.raises(ModelError, match=rf"1e-09 s of processor time.*at shift; .*{SECONDS}"):
        import_model(_model(4))
    with pytest.raises(ModelError, match=f"the forward model: importing it took.*{SECONDS}"):
        differentiate(small_forward("mlp").model, loss="cross-entropy", optimizer=MOMENTUM)


def test_constants_beyond_the_budget_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BYTES, "16KiB")
    import_model(_model(4096))
    with pytest.raises(ModelError, match=rf"more than 16\.0 KiB, initializer 'c' of 16\.0 KiB among them.*{BYTES}"):
        import_model(_model(4097))


def test_a_sparse_file_of_a_tebibyte_is_refused_before_it_is_read(tmp_path: Path) -> None:
    model, elements = _model(4), 1 << 38
    for info in (*model.graph.input, *model.graph.output):
        info.type.tensor_type.shape.dim[0].dim_value = elements
    (constant,) = (tensor for tensor in model.graph.initializer if tensor.name == "c")
    constant.CopyFrom(TensorProto(name="c", data_type=TensorProto.FLOAT, dims=[elements], data_location=1))
    constant.external_data.add(key="location", value="c.bin")
    with (tmp_path / "c.bin").open("wb") as stream:
        os.truncate(stream.fileno(), 4 * elements)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=rf"m\.onnx: its constants take more than .* 1\.0 TiB among them.*{BYTES}"):
        import_model(tmp_path / "m.onnx")


@pytest.mark.parametrize(("name", "value"), [(SECONDS, "soon"), (SECONDS, "0"), (SECONDS, "nan"), (BYTES, "much")])
def test_a_budget_that_cannot_be_read_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=f"{name}.*expected"):
        import_model(_model(4))


def test_a_budget_counts_inside_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BYTES, "10B")
    with import_budget("the outer one"):
        monkeypatch.setenv(BYTES, "20B")
        with import_budget("the inner one"):
            spend_bytes(10, "ten")
        with pytest.raises(ModelError, match="the outer one"):
            spend_bytes(1, "one more")
    spend_bytes(1 << 60, "nothing is counted here")
    spend_time("nor here")
