"""Outputs and next values that are what an input, a constant or a state was before the step."""

from dataclasses import replace

import pytest
from support.plans import random_plan
from support.versions import CASES, old_state, piece_of_old_state, previous_value, view_of_new_state

from planc.importer.import_model import ImportedModel, import_model
from planc.importer.versions import KEPT_SUFFIX
from planc.runtime.measure import measure
from planc.runtime.step import load
from planc.verifier.verify import verify


def _imported(make) -> ImportedModel:
    return import_model(make())


@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
@pytest.mark.parametrize("seed", range(4))
def test_every_output_and_state_is_that_of_the_model(make, seed: int) -> None:
    imported = _imported(make)
    plan = random_plan(imported, seed)
    assert verify(imported.graph, plan) == ()
    with load(plan, imported) as step:
        assert measure(step, steps=4, seed=seed, compare=True).bitwise_equal is True
        assert set(step.output_names) == {o.name for o in make().graph.output} - set(imported.state_names.values())


@pytest.mark.parametrize("make", [old_state, piece_of_old_state, previous_value], ids=lambda make: make.__name__)
def test_the_verifier_knows_by_itself_which_version_an_output_is(make) -> None:
    """Without the copies, an output is a view of the old value, whose bytes the new one takes."""
    imported = _imported(make)
    graph = imported.graph
    old = next(i for i, t in enumerate(graph.tensors) if t.name == "w")
    plan = random_plan(imported, 1)
    aliased = replace(graph, outputs=(*graph.outputs, old))
    assert "stale output" in {violation.kind for violation in verify(aliased, plan)}


def test_what_the_step_computes_anyhow_is_not_copied() -> None:
    names = {tensor.name for tensor in _imported(view_of_new_state).graph.tensors}
    assert not any(KEPT_SUFFIX in name for name in names)
