"""What a plan says to people about its layers and inputs has to be true."""

import msgspec
from support.networks import cnn
from support.plans import random_plan

from planc.plan.plan import LayerInfo, Plan
from planc.verifier.verify import verify


def _kinds(plan: Plan) -> list[tuple[str, str]]:
    return [(violation.kind, violation.where) for violation in verify(cnn().graph, plan)]


def test_true_or_absent_labels_are_valid() -> None:
    plan = random_plan(cnn(), 0)
    assert len(plan.layers) == len(cnn().graph.layers)
    assert _kinds(plan) == []
    assert _kinds(msgspec.structs.replace(plan, layers=(), inputs={})) == []


def test_false_labels_are_violations() -> None:
    plan = random_plan(cnn(), 0)
    first, *rest = plan.layers
    wrong = (
        LayerInfo(first.name + "x", first.kind, first.phase, first.operators),
        LayerInfo(first.name, first.kind, "update", first.operators),
        LayerInfo(first.name, first.kind, first.phase, first.operators + 1),
    )
    for layer in wrong:
        assert ("labels", "layers") in _kinds(msgspec.structs.replace(plan, layers=(layer, *rest)))
    assert ("labels", "layers") in _kinds(msgspec.structs.replace(plan, layers=tuple(rest)))
    name = next(iter(plan.inputs))
    for inputs in ({**plan.inputs, name: "nothing"}, {k: v for k, v in plan.inputs.items() if k != name}):
        assert ("labels", "inputs") in _kinds(msgspec.structs.replace(plan, inputs=inputs))
