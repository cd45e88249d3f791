"""What a step needs, against sums by hand over a network whose sizes are known."""

from dataclasses import replace

import numpy as np
import pytest
from support.costs import made_up_costs
from support.networks import cnn

import planc
from planc.compiler.estimate import estimate_step
from planc.compiler.job import CompileJob
from planc.costs.cards import CARDS
from planc.costs.catalogue import estimate
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
    job = CompileJob.of(imported, costs)
    assert found.minimum_budget_bytes == job.least_bytes
    assert found.liveness_peak_bytes == job.usual.liveness_peak_bytes
    assert found.minimum_budget_bytes < found.liveness_peak_bytes


def test_a_step_that_is_too_large_for_a_card_fits_with_a_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = cnn()
    job = CompileJob.of(imported, estimate(imported.graph, "t4", imported.calls))
    sizes = {
        "t4": job.least_bytes - 1, "l4": (job.least_bytes + job.roomy_bytes) // 2, "h100": job.roomy_bytes
    }  # fmt: skip
    monkeypatch.setattr("planc.compiler.estimate._CONTEXT_BYTES", 0)
    for name, size in sizes.items():
        monkeypatch.setitem(CARDS, name, replace(CARDS["t4"], memory_bytes=size))
    cards = {card.card: (card.fits, card.fits_planned) for card in planc.estimate(imported.file.proto).cards}
    assert [cards[name] for name in sizes] == [(False, False), (False, True), (True, True)]
