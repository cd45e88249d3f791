"""`pack` on small buffers with known answers, its statuses, and what it refuses."""

from random import Random

import numpy as np
import pytest

from planc.errors import InfeasibleBudgetError, InternalError, SolverTimeoutError
from planc.packing.buffers import Buffer, PackingError
from planc.packing.check import Verdict, check_packing
from planc.packing.pack import CHECK_UP_TO, pack, require_fit

PYRAMID = [Buffer(str(i), 1 + i % 3, ((i, 2 * 30 - i),)) for i in range(30)]

TILED_HEIGHT = 100


def tiling(seed: int, count: int) -> list[Buffer]:
    """A rectangle of 40 steps by TILED_HEIGHT bytes, cut up at random: packs without a hole, by construction."""
    random = Random(seed)
    pieces = [(0, 40, 0, TILED_HEIGHT)]
    while len(pieces) < count:
        pieces.sort(key=lambda piece: (piece[1] - piece[0]) * (piece[3] - piece[2]))
        start, end, low, high = pieces.pop()
        if (random.random() < 0.5 and end - start > 1) or high - low < 2:
            cut = random.randint(start + 1, end - 1)
            pieces += [(start, cut, low, high), (cut, end, low, high)]
        else:
            cut = random.randint(low + 1, high - 1)
            pieces += [(start, end, low, cut), (start, end, cut, high)]
    return [Buffer(str(i), high - low, ((start, end),)) for i, (start, end, low, high) in enumerate(pieces)]


def missed_by_greedy() -> list[Buffer]:
    """A tiling that the heuristics alone pack 25 % too high."""
    buffers = tiling(1, 60)
    assert pack(buffers, time_limit=0.0).height > TILED_HEIGHT
    return buffers


def test_no_buffers_need_no_bytes() -> None:
    packing = pack([])
    assert (packing.offsets, packing.height, packing.lower_bound, packing.status) == ((), 0, 0, "optimal")


def test_nested_lifetimes_reach_their_load() -> None:
    packing = pack(PYRAMID)
    assert packing.height == packing.lower_bound == sum(b.size for b in PYRAMID)
    assert check_packing(PYRAMID, packing.offsets) is Verdict.GOOD


def test_touching_lifetimes_share_bytes() -> None:
    assert pack([Buffer("a", 8, ((0, 5),)), Buffer("b", 8, ((5, 9),))]).height == 8


def test_a_buffer_fits_into_the_gap_of_another() -> None:
    holed, inside = Buffer("holed", 8, ((0, 2), (6, 9))), Buffer("inside", 8, ((2, 6),))
    assert pack([holed, inside]).height == 8


def test_skylines_alone_fill_gaps_one_within_the_other() -> None:
    """State that leaves while other buffers come and go needs bytes for the larger of the two, not for both."""
    state = [Buffer(f"s{i}", 10, ((0, 10 + i), (90 - i, 100))) for i in range(8)]
    others = [Buffer(f"o{i}", 3, ((18 + i, 22 + i),)) for i in range(40)]
    through = Buffer("through", 5, ((0, 100),))
    packing = pack([*others, *state, through], time_limit=0.0)
    assert (packing.height, packing.status) == (85, "optimal")


def test_buffers_without_size_or_lifetime_take_no_memory() -> None:
    packing = pack([Buffer("empty", 0, ((0, 9),)), Buffer("dead", 7, ()), Buffer("live", 5, ((3, 4),))])
    assert packing.height == 5
    assert packing.offsets == (0, 0, 0)


def test_the_top_buffers_padding_is_not_counted() -> None:
    packing = pack([Buffer("a", 5, ((0, 1),), 4), Buffer("b", 5, ((0, 1),), 4)])
    assert (packing.height, packing.lower_bound, packing.status) == (13, 13, "optimal")


def test_order_of_time_and_scale_do_not_matter() -> None:
    shifted = [Buffer(b.id, b.size, tuple((7 * s - 10**15, 7 * e - 10**15) for s, e in b.lifetimes)) for b in PYRAMID]
    assert pack(shifted[::-1]).height == pack(PYRAMID).height


@pytest.mark.parametrize("seed", range(6))
def test_tilings_pack_without_a_hole(seed: int) -> None:
    buffers = tiling(seed, 60)
    packing = pack(buffers, time_limit=60.0, seed=seed)
    assert (packing.height, packing.status) == (TILED_HEIGHT, "optimal")
    assert check_packing(buffers, packing.offsets, TILED_HEIGHT) is Verdict.GOOD


def test_groups_apart_in_time_pack_on_their_own() -> None:
    apart = [
        Buffer(f"{seed}.{b.id}", b.size, tuple((s + 100 * seed, e + 100 * seed) for s, e in b.lifetimes))
        for seed in (1, 3) for b in tiling(seed, 60)
    ]  # fmt: skip
    packing = pack(apart, time_limit=60.0)
    assert (packing.height, packing.status) == (TILED_HEIGHT, "optimal")
    assert check_packing(apart, packing.offsets, TILED_HEIGHT) is Verdict.GOOD


def test_a_capacity_below_the_load_is_infeasible() -> None:
    packing = pack(PYRAMID, capacity=10)
    assert packing.status == "infeasible"
    assert check_packing(PYRAMID, packing.offsets, packing.height) is Verdict.GOOD
    with pytest.raises(InfeasibleBudgetError, match="no packing fits 10 bytes"):
        require_fit(packing, 10)


def test_a_capacity_ends_the_search_when_it_is_met() -> None:
    packing = pack(PYRAMID, capacity=10**6)
    assert packing.status in ("optimal", "feasible")
    require_fit(packing, 10**6)


def test_no_time_is_reported_as_a_timeout_not_as_infeasible() -> None:
    packing = pack(missed_by_greedy(), capacity=TILED_HEIGHT, time_limit=0.0)
    assert packing.status == "timeout"
    assert packing.height > TILED_HEIGHT
    with pytest.raises(SolverTimeoutError, match="larger capacity or time limit"):
        require_fit(packing, TILED_HEIGHT)


def test_the_same_seed_gives_the_same_offsets() -> None:
    buffers = missed_by_greedy()
    assert pack(buffers, time_limit=60.0, seed=3).offsets == pack(buffers, time_limit=60.0, seed=3).offsets


def test_a_known_packing_is_kept_or_improved_on() -> None:
    buffers = [Buffer("through", 7, ((0, 40),)), *missed_by_greedy()]
    greedy = pack(buffers, time_limit=0.0)
    assert pack(buffers, time_limit=0.0, known=greedy).offsets == greedy.offsets
    better = pack(buffers, time_limit=60.0, known=greedy)
    assert (better.height, better.status) == (TILED_HEIGHT + 7, "optimal")
    assert check_packing(buffers, better.offsets, TILED_HEIGHT + 7) is Verdict.GOOD
    assert pack(buffers, time_limit=0.0, known=better).offsets == better.offsets
    with pytest.raises(PackingError, match="offsets for"):
        pack(PYRAMID, known=greedy)


@pytest.mark.parametrize(
    "buffer",
    [
        Buffer("b", -1, ((0, 1),)),
        Buffer("b", 1, ((0, 1),), alignment=0),
        Buffer("b", 1, ((1, 1),)),
        Buffer("b", 1, ((2, 1),)),
        Buffer("b", 1, ((0, 3), (2, 5))),
        Buffer("b", 1, ((4, 5), (0, 1))),
        Buffer("b", 2**61, ((0, 1),)),
    ],
)
def test_malformed_buffers_are_refused(buffer: Buffer) -> None:
    with pytest.raises(PackingError):
        pack([buffer])


@pytest.mark.parametrize("options", [{"capacity": -1}, {"time_limit": -1.0}, {"time_limit": float("nan")}])
def test_malformed_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(PackingError, match="expected"):
        pack(PYRAMID, **options)  # type: ignore[arg-type]


def test_packings_are_held_against_the_definition_where_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    buffers = [Buffer("a", 8, ((0, 2),)), Buffer("b", 8, ((1, 3),))]
    monkeypatch.setattr("planc.packing.pack.best_greedy", lambda *_: np.zeros(2, np.int64))
    monkeypatch.setenv(CHECK_UP_TO, "1")
    pack(buffers, time_limit=0)
    monkeypatch.setenv(CHECK_UP_TO, "2")
    with pytest.raises(InternalError, match="2 buffers is wrong: two buffers alive at the same time share a byte"):
        pack(buffers, time_limit=0)
