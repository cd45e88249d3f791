"""Every systematic alteration of small plans is rejected, or harmless in every interleaving of the engines."""

import random

import pytest
from support.brute_force import brute_force
from support.mutations import MUTATIONS
from support.plans import random_plan
from support.tiny import GRAPHS

from planc.verifier.verify import verify


@pytest.mark.parametrize("name", MUTATIONS)
def test_an_altered_plan_is_rejected_or_harmless(name: str) -> None:
    for seed in range(12):
        imported = GRAPHS[seed % len(GRAPHS)]()
        rng = random.Random(f"{name} {seed}")
        altered = MUTATIONS[name](random_plan(imported, seed, seed % 2 == 0), rng)
        if altered is not None and not verify(imported.graph, altered):
            try:
                assert brute_force(imported.graph, altered) is None, seed
            except OverflowError:
                continue


def test_there_are_many_classes_and_most_of_them_are_rejected() -> None:
    """So that the check above is no empty one."""
    assert len(MUTATIONS) >= 100
    rejected = set()
    for name, mutate in MUTATIONS.items():
        for seed in range(12):
            imported = GRAPHS[seed % len(GRAPHS)]()
            altered = mutate(random_plan(imported, seed, seed % 2 == 0), random.Random(f"{name} {seed}"))
            if altered is not None and verify(imported.graph, altered):
                rejected.add(name)
    assert len(rejected) >= 0.85 * len(MUTATIONS)
