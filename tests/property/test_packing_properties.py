"""Packings of random buffers: valid, never under the bound, and as low as exhaustive search."""

from itertools import permutations
from random import Random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from planc.packing.buffers import Buffer
from planc.packing.check import Verdict, check_packing
from planc.packing.heuristics.ground import ground
from planc.packing.heuristics.skyline import Skylines
from planc.packing.model import build_model
from planc.packing.pack import pack
from planc.packing.portfolio import improve
from planc.packing.strata import strata
from planc.units import align_up


@st.composite
def lifetimes(draw: st.DrawFn, horizon: int, intervals: int) -> tuple[tuple[int, int], ...]:
    count = 2 * draw(st.integers(1, intervals))
    points = sorted(draw(st.lists(st.integers(0, horizon), min_size=count, max_size=count, unique=True)))
    return tuple(zip(points[::2], points[1::2], strict=True))


def buffer_lists(most: int, size: int, horizon: int, alignments: tuple[int, ...]) -> st.SearchStrategy[list[Buffer]]:
    buffer = st.builds(Buffer, st.just("b"), st.integers(0, size), lifetimes(horizon, 2), st.sampled_from(alignments))
    return st.lists(buffer, max_size=most)


def least_height(buffers: list[Buffer]) -> int:
    """Lowest height over all orders of placing, each buffer as low as the ones placed under it allow.

    Every packing can be pushed down into one of these without getting higher.
    """

    def meet(a: Buffer, b: Buffer) -> bool:
        return any(max(s, t) < min(e, f) for s, e in a.lifetimes for t, f in b.lifetimes)

    heights = []
    for order in permutations([b for b in buffers if b.size]):
        placed: list[tuple[Buffer, int]] = []
        for buffer in order:
            floor = max((at + other.size for other, at in placed if meet(buffer, other)), default=0)
            placed.append((buffer, align_up(floor, buffer.alignment)))
        heights.append(max((at + b.size for b, at in placed), default=0))
    return min(heights)


@given(buffer_lists(40, 50, 30, (1, 1, 2, 4, 6)), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_packings_are_valid_and_not_under_the_bound(buffers: list[Buffer], seed: int) -> None:
    packing = pack(buffers, time_limit=0.05, seed=seed)
    assert check_packing(buffers, packing.offsets, packing.height) is Verdict.GOOD
    tops = [offset + b.size for b, offset in zip(buffers, packing.offsets, strict=True) if b.size]
    assert packing.height == max(tops, default=0)
    assert packing.height >= packing.lower_bound
    assert (packing.status == "optimal") == (packing.height == packing.lower_bound)


@given(buffer_lists(6, 9, 6, (1, 1, 2, 3, 4)))
@settings(max_examples=150, deadline=None)
def test_tiny_packings_are_as_low_as_brute_force(buffers: list[Buffer]) -> None:
    packing = pack(buffers, time_limit=20.0)
    assert packing.status == "optimal"
    assert packing.height == least_height(buffers)


@given(buffer_lists(6, 9, 6, (1, 1, 2, 3, 4)), st.integers(0, 40))
@settings(max_examples=150, deadline=None)
def test_capacity_is_met_or_disproved_as_brute_force_says(buffers: list[Buffer], capacity: int) -> None:
    packing = pack(buffers, capacity=capacity, time_limit=20.0)
    least = least_height(buffers)
    assert (packing.status == "infeasible") == (least > capacity)
    assert packing.lower_bound <= least <= packing.height
    assert (packing.height <= capacity) == (least <= capacity)


@given(buffer_lists(6, 9, 6, (1, 1, 2, 3, 4)))
@settings(max_examples=100, deadline=None)
def test_search_alone_is_exact_from_a_stack(buffers: list[Buffer]) -> None:
    """Without the greedy packings before it: from all buffers on top of each other."""
    model = build_model(buffers)
    if not model.count:
        return
    step = int(np.lcm.reduce(model.alignment))
    stack = np.cumsum([0, *(align_up(int(size), step) for size in model.size[:-1])])
    offsets, bound = improve(model, stack, model.load_bound(), None, float("inf"), 0)
    assert model.height(offsets) == bound == least_height(buffers)


@given(buffer_lists(60, 50, 40, (1, 2, 4)), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_skylines_are_valid_in_any_order(buffers: list[Buffer], random: Random) -> None:
    model = build_model(buffers)
    if not model.count:
        return
    rank = np.array(sorted(range(model.count), key=lambda _: random.random()), dtype=np.int64)
    offsets = np.zeros(len(buffers), np.int64)
    offsets[model.source] = Skylines(model, ground(model)).pack(rank)
    assert check_packing(buffers, offsets.tolist()) is Verdict.GOOD


@given(buffer_lists(5, 6, 6, (1,)))
@settings(max_examples=150, deadline=None)
def test_groups_packed_apart_are_as_low_as_all_together(buffers: list[Buffer]) -> None:
    model = build_model(buffers)
    fixed, parts = strata(model)
    inside = {int(i) for part in parts for i in part.chosen}
    assert len(inside) == sum(part.model.count for part in parts)
    tops = [int(fixed[i] + model.top[i]) for i in range(model.count) if i not in inside]
    tops += [part.base + least_height([buffers[i] for i in model.source[part.chosen]]) for part in parts]
    assert max(tops, default=0) == least_height(buffers)
