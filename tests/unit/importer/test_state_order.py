"""State is updated in place where it can be, by another node order or by a copy where it cannot; results never change."""

import numpy as np
import onnx
import pytest
from onnx import helper
from support.graphs import step_model
from support.plans import random_plan

from planc.errors import ModelError
from planc.graph.graph import Role
from planc.importer.draft import PART_SUFFIX
from planc.importer.exchanges import OWN_SUFFIX
from planc.importer.import_model import import_model
from planc.importer.order import COPY_SUFFIX
from planc.importer.versions import KEPT_SUFFIX
from planc.runtime.measure import measure
from planc.runtime.step import load

W = {"w": np.linspace(-1, 1, 32, dtype=np.float32).reshape(4, 8)}
SHAPES = {"x": [4, 8], "w": [4, 8]}


def late_reader() -> onnx.ModelProto:
    """The file updates w before its last reader."""
    nodes = [
        helper.make_node("Mul", ["w", "x"], ["g"]),
        helper.make_node("Sub", ["w", "g"], ["w2"]),
        helper.make_node("Add", ["w", "x"], ["y"]),
    ]
    return step_model(nodes, SHAPES, {"y": [4, 8], "w2": [4, 8]}, W, {"w": "w2"})


def reader_of_both() -> onnx.ModelProto:
    """A node reads the old and the new value, so they cannot share bytes."""
    nodes = [
        helper.make_node("Mul", ["w", "x"], ["w2"]),
        helper.make_node("Sub", ["w2", "w"], ["delta"]),
    ]
    return step_model(nodes, SHAPES, {"delta": [4, 8], "w2": [4, 8]}, W, {"w": "w2"})


def unsafe_writer() -> onnx.ModelProto:
    """Transposing w onto itself would corrupt it."""
    nodes = [
        helper.make_node("Reshape", ["w", "shape"], ["v"]),
        helper.make_node("Transpose", ["v"], ["t"], perm=[1, 0]),
        helper.make_node("Reshape", ["t", "back"], ["w2"]),
        helper.make_node("Add", ["x", "w"], ["y"]),
    ]
    constants = {"shape": np.array([8, 4]), "back": np.array([4, 8])}
    return step_model(nodes, SHAPES, {"y": [4, 8], "w2": [4, 8]}, W | constants, {"w": "w2"})


def unchanged() -> onnx.ModelProto:
    """The next value is the value itself."""
    nodes = [helper.make_node("Identity", ["w"], ["w2"]), helper.make_node("Add", ["x", "w"], ["y"])]
    return step_model(nodes, SHAPES, {"y": [4, 8], "w2": [4, 8]}, W, {"w": "w2"})


def tied() -> onnx.ModelProto:
    """Two states take the same next value."""
    nodes = [helper.make_node("Mul", ["w", "x"], ["n"]), helper.make_node("Add", ["x", "u"], ["y"])]
    outputs = {"y": [4, 8], "n": [4, 8], "n2": [4, 8]}
    nodes.append(helper.make_node("Identity", ["n"], ["n2"]))
    return step_model(nodes, SHAPES | {"u": [4, 8]}, outputs, W | {"u": W["w"] + 1}, {"w": "n", "u": "n2"})


CASES = [late_reader, reader_of_both, unsafe_writer, unchanged, tied]


@pytest.mark.parametrize("make", CASES)
@pytest.mark.parametrize("seed", range(3))
def test_planned_steps_agree_with_the_model_bit_for_bit(make, seed: int) -> None:
    imported = import_model(make())
    with load(random_plan(imported, seed), imported) as step:
        assert measure(step, steps=4, seed=seed, compare=True).bitwise_equal is True


def test_a_late_reader_is_moved_before_the_update() -> None:
    graph = import_model(late_reader()).graph
    assert [op.op_type for op in graph.ops] == ["Mul", "Add", "Sub"]
    assert sum(s.role is Role.STATE for s in graph.storages) == 1


@pytest.mark.parametrize("make", [reader_of_both, unsafe_writer, tied])
def test_a_copy_is_added_where_nothing_else_helps(make) -> None:
    graph = import_model(make()).graph
    copies = [t.name for t in graph.tensors if t.name.endswith(COPY_SUFFIX)]
    assert len(copies) == 1
    assert graph.layers[-1].kind == "state-copy"


def test_an_unchanged_state_needs_no_operator() -> None:
    graph = import_model(unchanged()).graph
    assert [op.op_type for op in graph.ops] == ["Add"]


@pytest.mark.parametrize("suffix", [COPY_SUFFIX, KEPT_SUFFIX, OWN_SUFFIX, PART_SUFFIX])
def test_names_that_the_import_gives_are_refused(suffix: str) -> None:
    nodes = [*reader_of_both().graph.node, helper.make_node("Neg", ["x"], [f"w2{suffix}"])]
    outputs = {"delta": [4, 8], f"w2{suffix}": [4, 8], "w2": [4, 8]}
    with pytest.raises(ModelError, match=f"tensor 'w2{suffix}' has a name with '@planc.'.*: rename it"):
        import_model(step_model(nodes, SHAPES, outputs, W, {"w": "w2"}))
