"""Packing around given offsets: as low as trying every offset, and pins kept, or refused where they exclude each other."""

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planc.clock import WorkClock
from planc.enums import Status
from planc.packing.buffers import Buffer, PackingError
from planc.packing.check import Verdict, check_packing
from planc.packing.pack import pack

_TIMES = [((0, 2),), ((1, 3),), ((0, 4),), ((2, 4),), ((0, 1), (3, 4)), ((1, 2),)]


def _buffers() -> st.SearchStrategy[list[Buffer]]:
    pins = st.sampled_from([None, None, 0, 2, 4])
    one = st.builds(Buffer, st.just("b"), st.integers(0, 3), st.sampled_from(_TIMES), st.sampled_from([1, 1, 2]), pins)
    return st.lists(one, min_size=1, max_size=5)


def _least(buffers: list[Buffer]) -> int | None:
    """The lowest height of any offsets; None where pins exclude each other."""
    most = 4 + sum(b.size + b.alignment for b in buffers)
    for height in range(most + 1):
        choices = [range(height - b.size + 1) if b.pinned is None else [b.pinned] for b in buffers]
        for offsets in product(*choices):
            tops = [at + b.size for b, at in zip(buffers, offsets, strict=True) if b.size]
            if max(tops, default=0) <= height and check_packing(buffers, offsets) is Verdict.GOOD:
                return height
    return None


@given(_buffers())
@settings(max_examples=60, deadline=None)
def test_packings_around_pins_are_the_lowest(buffers: list[Buffer]) -> None:
    buffers = [*buffers, Buffer("p", 1, ((0, 4),), 1, 5)]
    least = _least(buffers)
    if least is None:
        with pytest.raises(PackingError, match="share byte"):
            pack(buffers, time_limit=2)
        return
    packing = pack(buffers, time_limit=2)
    assert check_packing(buffers, packing.offsets) is Verdict.GOOD
    assert (packing.height, packing.status) == (least, Status.OPTIMAL)


def test_the_checker_minds_pins() -> None:
    assert check_packing([Buffer("a", 4, ((0, 1),), 1, 8)], [4]) is Verdict.BAD_PIN


def test_a_first_fit_that_misses_is_mended_by_the_solver() -> None:
    pinned = [Buffer("p", 2, ((0, 4),), 1, 6), Buffer("q", 2, ((1, 3),), 1, 2)]
    free = [Buffer("a", 3, ((0, 1),)), Buffer("b", 2, ((0, 2),)), Buffer("c", 2, ((2, 4),)), Buffer("d", 3, ((3, 4),))]
    packing = pack([*pinned, *free], time_limit=5, clock=WorkClock())
    assert packing.offsets[:2] == (6, 2)
    assert packing.status is Status.OPTIMAL
    assert packing.offsets == pack([*pinned, *free], time_limit=5, clock=WorkClock()).offsets


@pytest.mark.parametrize(("capacity", "status"), [(9, Status.INFEASIBLE), (10, Status.OPTIMAL), (100, Status.OPTIMAL)])
def test_a_capacity_is_met_or_proved_too_small(capacity: int, status: Status) -> None:
    buffers = [Buffer("p", 4, ((0, 2),), 1, 3), Buffer("a", 3, ((0, 1),)), Buffer("b", 3, ((0, 1),))]
    assert pack(buffers, capacity=capacity).status is status


@given(_buffers(), st.integers(0, 8))
@settings(max_examples=40, deadline=None)
def test_a_capacity_is_met_whenever_that_is_possible(buffers: list[Buffer], capacity: int) -> None:
    buffers = [*buffers, Buffer("p", 1, ((0, 4),), 1, 3)]
    least = _least(buffers)
    if least is not None:
        packing = pack(buffers, capacity=capacity, time_limit=2)
        assert (packing.height <= capacity) == (least <= capacity)
        assert (packing.status is Status.INFEASIBLE) == (least > capacity)
        assert packing.lower_bound <= least


@pytest.mark.parametrize("pin", [-4, 6])
def test_a_pin_that_is_no_offset_is_refused(pin: int) -> None:
    with pytest.raises(PackingError, match="pinned at"):
        pack([Buffer("a", 4, ((0, 1),), 4, pin)])


def test_sizes_beyond_what_the_solver_counts_are_packed_by_first_fit() -> None:
    buffers = [Buffer(str(i), 2**56, ((i, i + 2),), 1, 2**57 if i == 0 else None) for i in range(5)]
    packing = pack(buffers, time_limit=1)
    assert check_packing(buffers, packing.offsets) is Verdict.GOOD
    assert packing.lower_bound <= packing.height
    with pytest.raises(PackingError, match="add up to more"):
        pack([replace(buffers[0], pinned=2**60)])
