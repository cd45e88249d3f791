"""How parameters are divided among ranks, and what cannot be asked for."""

import itertools
import random

import pytest

from planc.errors import UsageError
from planc.training.shards import divided
from planc.training.step_options import StepOptions


def fullest(sizes: dict[str, int], owners: dict[str, int], ranks: int) -> int:
    return max(sum(size for name, size in sizes.items() if owners[name] == rank) for rank in range(ranks))


@pytest.mark.parametrize("seed", range(20))
def test_the_division_keeps_grahams_bound(seed: int) -> None:
    """Against the best of all divisions."""
    rng = random.Random(seed)
    ranks, sizes = rng.choice([2, 3]), {f"p{i}": rng.randint(1, 50) for i in range(7)}
    owners = divided(sizes, ranks)
    assert owners.keys() == sizes.keys()
    every = itertools.product(range(ranks), repeat=len(sizes))
    best = min(fullest(sizes, dict(zip(sizes, given, strict=True)), ranks) for given in every)
    assert best <= fullest(sizes, owners, ranks) <= (4 / 3 - 1 / (3 * ranks)) * best + 1e-9


def test_more_ranks_than_parameters_leave_some_without() -> None:
    assert divided({"a": 3, "b": 5}, 4) == {"b": 0, "a": 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sharded": True}, "divided among several ranks"),
        ({"ranks": 2, "sharded": True, "rank": 2}, "the rank is 2, expected one of 0 to 1"),
        ({"ranks": 2, "sharded": True, "rank": -1}, "the rank is -1"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        StepOptions(**options)  # type: ignore[arg-type]
