"""Exchanges through host memory among three ranks, threads of this process, with arrays larger than a message."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from support.lone_rank import LoneRank

from planc.enums import ExchangeKind
from planc.runtime.ranks import gloo
from planc.runtime.ranks.gloo import Gloo, GlooSums

dist = pytest.importorskip("torch.distributed")

RANKS = 3
SIZES = {"a": (1000, np.float32, 0), "b": (3, np.float64, 2), "c": (700, np.float16, 0), "d": (1, np.float32, 1),
         "e": (0, np.float32, 2), "f": (2500, np.float32, 2)}  # fmt: skip
"""Elements, type and root: rank 1 is the root of one element, two types have no array for some of the roots."""


def arrays_of(rank: int) -> list[np.ndarray]:
    """What a rank begins with; sums of three such depend on their order."""
    rng = np.random.default_rng(rank)
    return [
        (rng.normal(size=count) * 10.0 ** rng.integers(-3, 4, count)).astype(kind) for count, kind, _ in SIZES.values()
    ]


def on_all_ranks(act: Callable[[LoneRank], list[np.ndarray]]) -> list[list[np.ndarray]]:
    store = dist.HashStore()

    def one(rank: int) -> list[np.ndarray]:
        group = LoneRank(rank, RANKS, 30.0)
        group.store = store  # type: ignore[attr-defined]
        return act(group)

    with ThreadPoolExecutor(RANKS) as pool:
        return list(pool.map(one, range(RANKS)))


def exchanged(kind: ExchangeKind) -> list[list[np.ndarray]]:
    roots = [root for _, _, root in SIZES.values()]

    def act(group: LoneRank) -> list[np.ndarray]:
        found, sums = arrays_of(group.rank), GlooSums(group, "sums")  # type: ignore[arg-type]
        sums.exchange(kind, found, roots if kind is not ExchangeKind.ALL_REDUCE else ())
        return found

    return on_all_ranks(act)


def in_order(at: int) -> np.ndarray:
    """((g0 + g1) + g2)"""
    first, second, third = (arrays_of(rank)[at] for rank in range(RANKS))
    return (first + second) + third  # type: ignore[no-any-return]


def test_sums_are_in_the_order_of_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gloo, "_CHUNK_BYTES", 1536)
    for found in exchanged(ExchangeKind.ALL_REDUCE):
        assert all(array.tobytes() == in_order(at).tobytes() for at, array in enumerate(found))


def test_the_sum_for_one_rank_has_the_bits_of_the_sum_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gloo, "_CHUNK_BYTES", 1536)
    for rank, found in enumerate(exchanged(ExchangeKind.REDUCE)):
        for at, (_, _, root) in enumerate(SIZES.values()):
            want = in_order(at) if root == rank else arrays_of(rank)[at]
            assert found[at].tobytes() == want.tobytes()


def test_all_are_given_what_the_root_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gloo, "_CHUNK_BYTES", 1536)
    for found in exchanged(ExchangeKind.BROADCAST):
        for at, (_, _, root) in enumerate(SIZES.values()):
            assert found[at].tobytes() == arrays_of(root)[at].tobytes()


def test_an_array_is_sent_from_one_rank_to_another() -> None:
    def act(group: LoneRank) -> list[np.ndarray]:
        link, found = Gloo(group, "link"), arrays_of(group.rank)  # type: ignore[arg-type]
        if group.rank == 2:
            link.send(found[0], 0)
        elif group.rank == 0:
            link.receive(found[0], 2)
        return found

    first, second, _ = on_all_ranks(act)
    assert first[0].tobytes() == arrays_of(2)[0].tobytes()
    assert second[0].tobytes() == arrays_of(1)[0].tobytes()
