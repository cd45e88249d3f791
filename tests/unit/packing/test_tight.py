"""Buffers that share an offset because sections of full height leave no choice."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest

from planc.packing.buffers import Buffer
from planc.packing.check import Verdict, check_packing
from planc.packing.exact.restarts import SETTINGS
from planc.packing.exact.search import FAILED, search
from planc.packing.exact.state import NONE, build_problem, new_memory
from planc.packing.model import build_model
from planc.packing.pack import pack
from planc.packing.tight import tie

GRID = 100
# c follows a beside b, and d comes back in place of c after a time in which the load is not full.
FOLLOWING = [
    Buffer("a", 6, ((0, 2),)), Buffer("b", 4, ((0, 8),)), Buffer("c", 6, ((2, 4),)),
    Buffer("e", 5, ((4, 6),)), Buffer("d", 6, ((6, 8),)),
]  # fmt: skip


def tiling(seed: int, count: int, dropped: float) -> list[Buffer]:
    """A square of GRID steps and bytes cut up at random, of whose pieces a part is dropped."""
    random = Random(seed)
    pieces = [(0, GRID, 0, GRID)]
    while len(pieces) < count:
        a, b, low, high = pieces.pop(
            random.choices(range(len(pieces)), [(p[1] - p[0]) * (p[3] - p[2]) for p in pieces])[0]
        )
        along, across = random.randint(a, b), random.randint(low, high)
        halves = (
            [(a, along, low, high), (along, b, low, high)] if random.random() < 0.5
            else [(a, b, low, across), (a, b, across, high)]
        )  # fmt: skip
        pieces += [p for p in halves if p[0] < p[1] and p[2] < p[3]]
    kept = [p for p in pieces if random.random() >= dropped]
    return [Buffer(str(i), high - low, ((a, b),)) for i, (a, b, low, high) in enumerate(kept)]


def test_buffers_that_replace_each_other_become_one() -> None:
    model = build_model(FOLLOWING)
    tied = tie(model, 10)
    assert tied is not None
    groups = {FOLLOWING[i].id: int(g) for i, g in zip(model.source, tied.group, strict=True)}
    assert groups["a"] == groups["c"] == groups["d"]
    assert len(set(groups.values())) == 3 == tied.model.count


def test_nothing_is_tied_below_the_capacity() -> None:
    model = build_model(FOLLOWING)
    tied = tie(model, 11)
    assert tied is not None
    assert tied.group.tolist() == list(range(5))


def test_buffers_tied_and_alive_together_prove_the_capacity_too_small() -> None:
    """a and c take turns beside k, which leaves in between, so they would lie at one offset; but they meet."""
    buffers = [Buffer("k", 6, ((0, 1), (3, 4))), Buffer("a", 6, ((0, 3),)), Buffer("c", 6, ((2, 4),))]
    assert tie(build_model(buffers), 12) is None
    packing = pack(buffers, time_limit=20.0)
    assert (packing.height, packing.lower_bound, packing.status) == (18, 18, "optimal")
    assert pack(buffers, capacity=12, time_limit=20.0).status == "infeasible"


@pytest.mark.parametrize("seed", range(6))
def test_no_rule_disproves_what_can_be_packed(seed: int) -> None:
    buffers = tiling(seed, 90, (0.0, 0.05, 0.1)[seed % 3])
    model = build_model(buffers)
    tied = tie(model, GRID)
    assert tied is not None
    problem = replace(build_problem(tied.model), capacity=GRID)
    rank = np.random.default_rng(seed).permutation(tied.model.count)
    for choice in {rule[0] for rule in SETTINGS.rules}:
        control = np.array([0, 5_000, 0, NONE], np.int64)
        found = search(problem, rank, choice, control, np.ones(tied.model.sections), new_memory())
        if isinstance(found, int):
            assert found != FAILED
        else:
            offsets = np.zeros(len(buffers), np.int64)
            offsets[model.source] = found[tied.group]
            assert check_packing(buffers, offsets.tolist(), GRID) is Verdict.GOOD
