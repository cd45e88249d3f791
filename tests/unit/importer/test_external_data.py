"""External data: left in its file until a value is asked for, and refused where it does not hold what it should."""

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from support import networks
from support.zoo_networks import MOMENTUM

from planc.errors import ModelError
from planc.importer.import_model import import_model
from planc.importer.save import write_structure
from planc.runtime.measure import UnplannedStep, synthetic_feeds
from planc.training import differentiate
from planc.zoo import ZooOptions, build_forward


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A training graph whose values all lie in `values.bin` beside it."""
    path = tmp_path / "train.onnx"
    model = onnx.ModelProto()
    model.CopyFrom(networks.cnn().file.proto)
    onnx.save(model, path, save_as_external_data=True, location="values.bin", size_threshold=0)
    return path


def test_values_are_those_of_the_file_and_only_state_is_left_there(outside: Path) -> None:
    inside, imported = networks.cnn(), import_model(outside)
    assert imported.graph.content_hash == inside.graph.content_hash
    for name, value in inside.file.initial_values.items():
        assert np.array_equal(imported.file.initial_values[name], value)
    (outside.parent / "values.bin").unlink()
    assert all(name in imported.file.initial_values for name in inside.file.initial_values)
    with pytest.raises(ModelError, match="external data of initializer"):
        next(iter(imported.file.initial_values.values()))


def test_an_unplanned_step_finds_constants_outside(outside: Path) -> None:
    inside, imported = networks.cnn(), import_model(outside)
    feeds = synthetic_feeds(inside.graph, 0)
    expected, found = UnplannedStep(inside)(feeds), UnplannedStep(imported)(feeds)
    assert {name: value.tobytes() for name, value in found.items()} == {n: v.tobytes() for n, v in expected.items()}


def test_a_file_that_is_cut_short_or_missing_is_refused_without_reading_it(outside: Path) -> None:
    values = outside.parent / "values.bin"
    os.truncate(values, values.stat().st_size // 2)
    with pytest.raises(ModelError, match=r"train\.onnx.*'values\.bin' is too short"):
        import_model(outside)
    values.unlink()
    with pytest.raises(ModelError, match=r"train\.onnx.*'values\.bin' is missing beside the model"):
        import_model(outside)


def test_a_structure_has_the_graph_of_the_drawn_network_and_zeros(tmp_path: Path) -> None:
    built = build_forward("resnet18", ZooOptions(batch=2, image=32), values=False)
    drawn = build_forward("resnet18", ZooOptions(batch=2, image=32))
    sparse, whole = (
        differentiate(x.model, loss=x.loss, optimizer=MOMENTUM, parameters=x.parameters) for x in (built, drawn)
    )
    write_structure(sparse, tmp_path / "train.onnx")
    imported, expected = import_model(tmp_path / "train.onnx"), import_model(whole)
    assert imported.graph.content_hash == expected.graph.content_hash
    assert not imported.file.initial_values["conv1.weight"].any()
    assert (tmp_path / "train.onnx.data").stat().st_size >= 4 * 2 * 11_000_000
    assert (tmp_path / "train.onnx.data").stat().st_blocks * 512 < 1 << 20
