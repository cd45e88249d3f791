"""Shorter copies: the same steps in the same time with fewer bytes held."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import networks
from support.costs import made_up_costs
from support.schedules import random_schedule

from planc.lowering.slack import slackened
from planc.planning.build import build_problem
from planc.schedule.residency import memory_profile, residencies
from planc.schedule.simulate import boundaries, simulate


@pytest.mark.parametrize("name", ["cnn", "mlp", "adam_mlp"])
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6))
def test_variants_are_valid_hold_no_more_anywhere_and_take_no_longer(name: str, seed: int) -> None:
    imported = getattr(networks, name)()
    problem = build_problem(imported.graph, made_up_costs(imported.graph)).problem
    schedule = random_schedule(problem, seed)
    timeline = simulate(problem, schedule)
    before = memory_profile(problem, schedule)
    for variant, times, found in slackened(problem, schedule, timeline):
        assert variant.steps == schedule.steps
        assert times == simulate(problem, variant)
        assert found == residencies(problem, variant)
        assert boundaries(problem, variant) <= boundaries(problem, schedule)
        assert times.step_ns <= timeline.step_ns * 1.0005 + 1
        assert all(new <= old for new, old in zip(memory_profile(problem, variant), before, strict=True))


def test_some_schedules_do_get_leaner() -> None:
    imported = networks.cnn()
    problem = build_problem(imported.graph, made_up_costs(imported.graph, bandwidth=10**11)).problem
    leaner = 0
    for seed in range(20):
        schedule = random_schedule(problem, seed)
        variants = slackened(problem, schedule, simulate(problem, schedule))
        leaner += any(
            sum(memory_profile(problem, variant)) < sum(memory_profile(problem, schedule)) for variant, _, _ in variants
        )
    assert leaner >= 5
