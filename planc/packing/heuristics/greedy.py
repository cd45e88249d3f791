"""Heuristic packings, cheapest first: omnimalloc's first fit by size, then skylines in several orders."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import cycle, islice, product
from math import lcm

import numpy as np

from planc.packing.model import Array, Model
from planc.units import align_up


@dataclass(frozen=True, slots=True)
class GreedySettings:
    """Which packings are tried, and how many."""

    first_fit_buffers: int = 2_000
    """First fit works on explicit conflict pairs; beyond this many buffers the skyline alone is faster."""
    orders: tuple[str, ...] = ("WS", "AW", "SW")
    """Of the skylines (see `Orders`)."""
    shuffled: int = 400
    """Most shuffled skylines …"""
    shuffled_buffers: int = 400_000
    """… and buffers in all of them, some 0.4 s: each costs 1 to 2 s per million …"""
    shuffled_least: int = 24
    """… but so many of any model."""
    noises: tuple[float, ...] = (0.03, 0.1, 0.3)
    """Standard deviations of their shuffle. The least is the best on real training sets, where it mostly reaches the
    load."""
    endless: tuple[tuple[float, str], ...] = (
        (0.01, "W"), (0.01, "WS"), (0.03, "AW"), (0.01, "WT"), (0.01, "WS"), (0.1, "WS"), (0.01, "W"), (0.3, "AW"),
    )  # fmt: skip
    """Shuffles and orders of a model too large for anything else, which is shuffled for as long as there is time. The
    longest first with very little shuffle reached the load of a set of 28,526 buffers in one or two of a hundred packings
    (28 ms each), more shuffle in none; but sets differ."""


SETTINGS = GreedySettings()

NO_HEIGHT = 1 << 62


def greedy_packings(model: Model) -> Iterator[Array]:
    """Offsets (bytes) from one heuristic after the other."""
    if model.count <= SETTINGS.first_fit_buffers:
        yield _first_fit_by_size(model)
    yield from _skylines(model, product((0.0,), SETTINGS.orders), np.random.default_rng(0))


def best_greedy(model: Model, target: int) -> Array:
    """The lowest of the heuristic packings, or the first one no higher than `target` bytes."""
    best = np.zeros(model.count, np.int64)
    height = NO_HEIGHT
    for offsets in greedy_packings(model):
        if model.height(offsets) < height:
            best, height = offsets, model.height(offsets)
        if height <= target:
            break
    return best


def shuffled_packings(model: Model, seed: int, endless: bool = False) -> Iterator[Array]:
    """More skylines, in slightly shuffled orders; as many as take some 0.4 s, or a few of a large model, or without end."""
    if endless:
        yield from _skylines(model, cycle(SETTINGS.endless), np.random.default_rng(seed))
    rounds = max(SETTINGS.shuffled_least, min(SETTINGS.shuffled, SETTINGS.shuffled_buffers // max(1, model.count)))
    random = np.random.default_rng(seed)
    choices = cycle(product(SETTINGS.noises, SETTINGS.orders))
    yield from islice(_skylines(model, choices, random), rounds)


def _skylines(model: Model, choices: Iterable[tuple[float, str]], random: np.random.Generator) -> Iterator[Array]:
    # numba takes half a second to import, and the easy cases do not get here.
    from planc.packing.heuristics.ground import ground
    from planc.packing.heuristics.order import Orders
    from planc.packing.heuristics.skyline import Skylines

    orders, skylines = Orders(model), Skylines(model, ground(model))
    for noise, keys in choices:
        yield skylines.pack(orders.rank(keys, noise, random))


def _first_fit_by_size(model: Model) -> Array:
    from omnimalloc.allocators import GreedyBySizeAllocator
    from omnimalloc.primitives import Allocation

    lower, upper = model.hull()
    # omnimalloc knows no alignment: sizes in multiples of all alignments keep every offset aligned.
    step = lcm(*set(model.alignment.tolist()))
    requests = tuple(
        Allocation(id=i, size=align_up(size, step), start=start, end=end)
        for i, (size, start, end) in enumerate(zip(model.size.tolist(), lower.tolist(), upper.tolist(), strict=True))
    )
    offsets = np.zeros(model.count, np.int64)
    for placed in GreedyBySizeAllocator().allocate(requests):
        offsets[placed.id] = placed.offset
    return offsets
