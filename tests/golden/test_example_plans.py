"""The example plans under plans/ are valid for the networks they name, within half of the liveness peak."""

from pathlib import Path

import pytest

from planc.importer.import_model import import_model
from planc.plan.plan import Plan
from planc.training import differentiate
from planc.training.optimizers import Optimizer
from planc.verifier.verify import verify
from planc.zoo import ZooOptions, build_forward

PLANS = Path(__file__).parents[2] / "plans"
EXAMPLES = {
    "resnet18.plan.json": ("resnet18", ZooOptions(batch=32, image=112)),
    "gpt2.plan.json": ("gpt2", ZooOptions(batch=16, depth=4, width=256, seq=128, classes=1000)),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_plan_is_valid(name: str) -> None:
    network, options = EXAMPLES[name]
    forward = build_forward(network, options)
    graph = import_model(differentiate(forward.model, loss=forward.loss, optimizer=Optimizer("momentum"))).graph
    plan = Plan.load(PLANS / name)
    assert verify(graph, plan) == ()
    memory = plan.memory
    assert memory.slab_bytes + memory.scratch_bytes <= memory.budget_bytes <= memory.liveness_peak_bytes / 2
    assert plan.copies


def test_every_example_is_tested() -> None:
    assert {path.name for path in PLANS.glob("*.json")} == set(EXAMPLES)
