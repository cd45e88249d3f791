"""What a step needs, against sums by hand over a network whose sizes are known."""

import numpy as np
import pytest
from support.costs import made_up_costs
from support.networks import cnn

import planc
from planc.compiler.estimate import estimate_step
from planc.training import Optimizer
from planc.units import ALIGNMENT, align_up
from planc.zoo import ZooOptions, build_step


def padded(*shape: int) -> int:
    return align_up(4 * int(np.prod(shape)), ALIGNMENT)


@pytest.mark.parametrize(("optimizer", "copies"), [("sgd", 0), ("momentum", 1), ("adam", 2)])
def test_parameters_optimizer_state_and_gradients_are_counted_by_their_shapes(optimizer: str, copies: int) -> None:
    model = build_step("mlp", ZooOptions(batch=4, depth=2, width=32, classes=10), Optimizer(optimizer))
    found = estimate_step(model, "t4")
    shapes = [tuple(t.dims) for t in model.graph.initializer if t.name.rsplit(".", 1)[-1] in ("weight", "bias")]
    parameters = sum(padded(*shape) for shape in shapes)
    assert found.parameters_bytes == parameters
    assert parameters * copies <= found.optimizer_bytes <= parameters * copies + ALIGNMENT * 2
    assert found.gradients_bytes == parameters
    assert found.operators > 0
    assert sum(found.saved.values()) >= found.saved_bytes > 0


def test_the_smallest_budget_and_the_peak_are_those_of_a_compilation() -> None:
    imported = cnn()
    costs = made_up_costs(imported.graph, scratch=1 << 10)
    found = estimate_step(imported, costs=costs)
    from planc.compiler.job import CompileJob

    job = CompileJob.of(imported, costs)
    assert found.minimum_budget_bytes == job.least_bytes
    assert found.liveness_peak_bytes == job.usual.liveness_peak_bytes
    assert found.minimum_budget_bytes <= found.liveness_peak_bytes + job.roomy_bytes


def test_a_step_that_is_too_large_for_a_card_fits_with_a_plan() -> None:
    model = build_step("vgg16", ZooOptions(batch=4, image=32), Optimizer("momentum"))
    cards = {card.card: card for card in planc.estimate(model).cards}
    assert cards["h200"].fits
    assert cards["h200"].fits_planned
    assert all(card.fits_planned or not card.fits for card in cards.values())
