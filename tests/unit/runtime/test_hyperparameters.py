"""Hyper-parameters of a step: what is no number of their type is refused, and a step that is refused changes none."""

import json
import threading
import time
from collections.abc import Iterator

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper
from support import networks
from support.graphs import step_model
from support.plans import random_plan

from planc.errors import FeedError
from planc.graph import annotations
from planc.importer.import_model import import_model
from planc.runtime.measure import synthetic_feeds
from planc.runtime.step import TrainingStep, load


@pytest.fixture
def step() -> Iterator[TrainingStep]:
    imported = networks.mlp()
    with load(random_plan(imported, 1, True), imported) as loaded:
        yield loaded


@pytest.mark.parametrize(
    "value", [10**400, -(10**400), float("inf"), "much", object()], ids=lambda value: str(value)[:8]
)
def test_what_the_type_cannot_hold_is_refused(step: TrainingStep, value: object) -> None:
    feeds, before = synthetic_feeds(step.imported.graph, 0), step.hyperparameters
    for change in (
        lambda: step.set_hyperparameters(lr=value),
        lambda: step(feeds, lr=value),
        lambda: step(feeds | {"optimizer.lr": value}),
    ):
        with pytest.raises(FeedError, match="lr' is"):
            change()
    assert (step.hyperparameters, step.steps) == (before, 0)


def test_a_refused_step_changes_none(step: TrainingStep) -> None:
    feeds, lr = synthetic_feeds(step.imported.graph, 0), step.hyperparameters["lr"]
    wrong = feeds | {"labels": feeds["labels"] + 1000}
    for refused in (
        lambda: step({}, lr=0.5),
        lambda: step(wrong, lr=0.5),
        lambda: step(wrong | {"optimizer.lr": 0.5}),
        lambda: step.run([], wrong | {"optimizer.lr": 0.5}),
    ):
        with pytest.raises(FeedError):
            refused()
        assert step.hyperparameters["lr"] == lr
    step(feeds, lr=0.5)
    assert step.hyperparameters["lr"] == (0.5,)


def test_a_step_that_runs_keeps_what_it_began_with(step: TrainingStep) -> None:
    feeds, lr = synthetic_feeds(step.imported.graph, 0), step.hyperparameters["lr"]
    for change in (lambda: step(feeds, lr=0.5), lambda: step.set_hyperparameters(lr=0.25)):
        other = threading.Thread(target=change)
        with step._guard.use():
            other.start()
            time.sleep(0.05)
            assert step.hyperparameters["lr"] == lr
        other.join()
        assert step.hyperparameters["lr"] != lr
        lr = step.hyperparameters["lr"]


def test_values_per_group_are_taken_from_any_sequence(step: TrainingStep) -> None:
    for value in ([0.5], (0.25,), np.array([0.125])):
        step.set_hyperparameters(lr=value)
        assert step.hyperparameters["lr"] == (float(value[0]),)


@pytest.mark.parametrize(
    ("kind", "first", "wrong"),
    [(TensorProto.INT64, np.array(3), 2.5), (TensorProto.FLOAT, np.array(3, np.float32), 1e300)],
)
def test_a_number_is_neither_cut_off_nor_made_infinite(kind: int, first: np.ndarray, wrong: float) -> None:
    nodes = [
        helper.make_node("Cast", ["every"], ["scale"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["x", "scale"], ["y"]),
    ]
    model = step_model(nodes, {"x": [4], "every": []}, {"y": [4]}, {"every": first})
    model.graph.input[1].type.tensor_type.elem_type = kind
    annotations.write_model(model, {annotations.HYPERPARAMETERS: json.dumps({"every": ["every"]})})
    imported = import_model(model)
    with load(random_plan(imported, 0), imported) as step:
        x = np.ones(4, np.float32)
        with pytest.raises(FeedError, match=rf"'every' is .*, which the model's {first.dtype} cannot hold"):
            step({"x": x}, every=wrong)
        assert step({"x": x})["y"][0] == 3
        assert step({"x": x}, every=2)["y"][0] == 2


def test_bfloat16_that_is_not_a_number_is_refused() -> None:
    nodes = [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)]
    model = step_model(nodes, {"x": [2, 3]}, {"y": [2, 3]})
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.BFLOAT16
    imported = import_model(model)
    with load(random_plan(imported, 0), imported) as step:
        x = np.ones((2, 3), ml_dtypes.bfloat16)
        step({"x": x})
        x[1, 2] = np.nan
        with pytest.raises(FeedError, match=r"'x' is not a number at \[1, 2\]"):
            step({"x": x})
