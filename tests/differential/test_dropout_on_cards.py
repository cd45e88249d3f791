"""Dropout in the forms for a card: masks that nobody keeps, new ones in every step and micro-batch, and right gradients."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.training_contract import violations
from support.training_steps import run_steps, state_pairs

from planc.importer.import_model import import_model
from planc.training import Optimizer, differentiate
from planc.training.emit.builder import RANDOM_KEY
from planc.training.step_options import StepOptions

ROWS, WIDTH, RATIO = 8, 64, 0.25


def _forward(ratios: Sequence[float] = (RATIO,)) -> onnx.ModelProto:
    """The sum of dropouts of `w`, which gives each element's factor as its gradient, times x."""
    w = np.ones((ROWS, WIDTH), np.float32)
    nodes, name = [], "w"
    for k in range(len(ratios)):
        nodes.append(helper.make_node("Dropout", [name, f"ratio{k}", "training"], [f"d{k}"], name=f"drop{k}"))
        name = f"d{k}"
    nodes += [helper.make_node("Mul", [name, "x"], ["p"]), helper.make_node("ReduceSum", ["p"], ["loss"], keepdims=0)]
    tensors = [numpy_helper.from_array(w, "w"), numpy_helper.from_array(np.array(True), "training")]
    tensors += [numpy_helper.from_array(np.float32(ratio), f"ratio{k}") for k, ratio in enumerate(ratios)]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [ROWS, WIDTH])]
    outputs = [helper.make_tensor_value_info("loss", TensorProto.FLOAT, [])]
    graph = helper.make_graph(nodes, "model", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def _step(options: StepOptions | None = None, ratios: Sequence[float] = (RATIO,)) -> onnx.ModelProto:
    return differentiate(
        _forward(ratios), loss="output", optimizer=Optimizer("sgd", 1.0), device="cuda", parameters=["w"],
        options=options or StepOptions(),
    )  # fmt: skip


def _factors(step: onnx.ModelProto, steps: int) -> list[np.ndarray]:
    """The gradient in each of some steps, where x is 1: what was dropped has 0."""
    feeds = {i.name: np.ones((ROWS, WIDTH), np.float32) for i in step.graph.input if i.name.startswith("x")}
    values = [np.ones((ROWS, WIDTH), np.float32), *(result["w.next"] for result in run_steps(step, feeds, steps))]
    return [before - after for before, after in pairwise(values)]


def test_forward_and_backward_draw_the_same_mask_and_every_step_another() -> None:
    step = _step()
    assert violations(step) == []
    assert RANDOM_KEY in state_pairs(step)
    first, second = _factors(step, 2)
    for factors in (first, second):
        assert set(np.round(np.unique(factors), 5)) <= {0.0, np.float32(round(1 / (1 - RATIO), 5))}
        assert abs((factors != 0).mean() - (1 - RATIO)) < 0.1
    assert not np.array_equal(first, second)
    feeds = {"x": np.ones((ROWS, WIDTH), np.float32)}
    assert float(run_steps(step, feeds)[0]["loss"]) == pytest.approx(first.sum(), rel=1e-5)


def test_nothing_of_it_is_random_to_the_planner() -> None:
    """So steps are replayed, and layers with dropout recomputed."""
    assert not any(op.random for op in import_model(_step()).graph.ops)


def test_a_seed_says_which_masks() -> None:
    first, again, other = (_factors(_step(StepOptions(seed=seed)), 1)[0] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_two_dropouts_draw_apart() -> None:
    (both,) = _factors(_step(ratios=(0.5, 0.5)), 1)
    assert abs((both != 0).mean() - 0.25) < 0.1


def test_micro_batches_draw_apart() -> None:
    """The mean of two masks' factors."""
    step = _step(StepOptions(accumulate=2))
    (factors,) = _factors(step, 1)
    once = 0.5 / (1 - RATIO)
    np.testing.assert_allclose(sorted(set(np.round(factors.ravel(), 4).tolist())), [0, once, 2 * once], atol=1e-3)
