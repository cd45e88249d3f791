"""Whatever valid schedule a solver returns, the plan made from it is proved, survives every interleaving, and computes
bit for bit what the unplanned graph computes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import networks
from support.adversary import judge
from support.plans import random_plan

from planc.runtime.measure import measure
from planc.runtime.step import load
from planc.verifier.verify import verify

NETWORKS = {"cnn": networks.cnn, "mlp": networks.mlp, "adam_mlp": networks.adam_mlp}


@pytest.mark.parametrize("name", NETWORKS)
@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10**6))
def test_a_lowered_schedule_is_valid_under_every_interleaving(name: str, seed: int) -> None:
    imported = NETWORKS[name]()
    plan = random_plan(imported, seed, scratch_in_slab=seed % 2 == 0)
    assert verify(imported.graph, plan) == ()
    assert judge(imported.graph, plan, range(5)) is None


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("seed", range(4))
def test_a_plan_computes_the_same_bits(name: str, seed: int) -> None:
    imported = NETWORKS[name]()
    with load(random_plan(imported, seed, seed % 2 == 0), imported) as step:
        result = measure(step, steps=3, seed=seed, compare=True)
    assert result.bitwise_equal is True
    assert len(result.losses) == 3
