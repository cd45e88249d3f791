"""The time that a user gives is used until the bound is met, and counted work gives one packing."""

import itertools
import random
import time

import pytest

from planc.clock import WorkClock
from planc.enums import Status
from planc.packing import portfolio
from planc.packing.buffers import Buffer
from planc.packing.pack import pack


def _buffers(seed: int, count: int = 60) -> list[Buffer]:
    """Buffers of odd sizes, most of them short: greedy packings miss the load."""
    rng, made = random.Random(seed), []
    for i in range(count):
        start = rng.randrange(40)
        made.append(Buffer(str(i), rng.randrange(1, 200), ((start, start + rng.choice((1, 2, 3, 20))),)))
    return made


def _missed() -> list[Buffer]:
    for seed in range(100):
        buffers = _buffers(seed)
        if pack(buffers, time_limit=0.0).status is not Status.OPTIMAL:
            return buffers
    raise AssertionError("greedy packings are optimal everywhere")


def test_a_set_too_large_to_search_is_packed_again_and_again_until_time_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    buffers = _missed()
    first = pack(buffers, time_limit=0.0)
    monkeypatch.setattr(portfolio, "WHEELS", portfolio.WHEELS._replace(buffers=10))
    rounds = itertools.count()
    original = portfolio.BufferGroup._take

    def take(group: portfolio.BufferGroup, offsets: object) -> None:
        next(rounds)
        original(group, offsets)  # type: ignore[arg-type]

    monkeypatch.setattr(portfolio.BufferGroup, "_take", take)
    began = time.monotonic()
    packing = pack(buffers, capacity=first.lower_bound, time_limit=1.0)
    assert packing.height <= first.height
    if packing.status is not Status.FEASIBLE and packing.status is not Status.OPTIMAL:
        assert time.monotonic() - began >= 1.0
        assert next(rounds) > 100  # ended by time, not after a fixed number of packings


def test_counted_work_gives_one_packing(monkeypatch: pytest.MonkeyPatch) -> None:
    buffers = _missed()
    first = pack(buffers, time_limit=0.5, clock=WorkClock())
    jumps = itertools.count(0.0, 3600.0)
    monkeypatch.setattr(time, "monotonic", lambda: next(jumps))
    again = pack(buffers, time_limit=0.5, clock=WorkClock())
    assert (again.offsets, again.lower_bound, again.solve_s) == (first.offsets, first.lower_bound, first.solve_s)
