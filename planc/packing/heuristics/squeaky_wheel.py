"""Squeaky-wheel packing: first fit in an order, then the buffers that ended too high go earlier, time and again.

First fit puts every buffer at the lowest place that is free over its whole lifetime, gaps respected. Squeaky-wheel
optimisation (Joslin & Clements, JAIR 1999) searches the space of orders: the elements that cause the trouble move to
the front. It is the strong heuristic for lifetimes with gaps, which the skylines take as a whole, and for groups that
the exact search cannot exhaust.
"""

from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from planc.compiled.jit import compiled, inner
from planc.compiled.packed import Packed
from planc.packing.heuristics.order import Orders
from planc.packing.model import Array, Model

Meets = npt.NDArray[np.bool_]


class WheelSettings(NamedTuple):
    """How wheels start, turn and stop."""

    starts: tuple[str, ...] = ("WS", "SW", "TS", "WT", "AS", "TW")
    """Orders from which they start (see `Orders`); which one leads lowest differs from instance to instance."""
    gapped_start: str = "HS"
    """One more, where lifetimes have gaps."""
    noise: float = 0.3
    """Shuffle of these orders when all wheels start anew; none at first."""
    buffers: int = 8_000
    """Larger models are not turned: a packing takes time, and the matrix of meetings memory, with the square of the
    buffers, 40 ms and 64 MB for these."""
    rounds: int = 30
    """Packings of one turn with `round_buffers` buffers, some 30 ms; with others as many as take the same time …"""
    round_buffers: int = 1_600
    most_rounds: int = 500
    """… but no more than this."""
    large: float = 0.001
    """Part of the load from which on a buffer counts as large. A tenth of a thousand buffers are, and pack in a hundredth
    of the time; of thresholds from 0.1 % to 1 % this one measured best."""
    trial_turns: int = 4
    """Turns of every wheel after which the worse half stops."""
    patience_turns: int = 16
    """Turns without success after which all start anew."""
    worse: float = 0.01
    """Probability of going on from an order that packs higher: the way out of a basin."""
    moved_share: float = 0.5
    """Largest share of the blamed buffers that move at once; on average 2 of them do, which measured best."""
    sharp: float = 0.5
    """Probability with which a wheel of volume blames every buffer above the goal, not only the highest."""


WHEELS = WheelSettings()


@dataclass(frozen=True, eq=False)
class _Turn(Packed):
    """What `spin` works on: a model, which buffers meet, and the orders at hand, on trial and of the best packing.

    `ends` are where the buffers of the order at hand end, `tried` those of the trial. `placed` is room for the buffers in
    order of their offset.
    """

    top: Array
    size: Array
    alignment: Array
    meets: Meets
    current: Array
    trial: Array
    best_order: Array
    offsets: Array
    best: Array
    ends: Array
    tried: Array
    placed: Array
    stop: Array
    goal: int
    rounds: int
    seed: int
    volume: int


@dataclass
class _Wheel:
    """An order of the buffers and the lowest height it gave; `volume` says what it lowers, see `spin`."""

    order: Array
    volume: bool
    height: int = 1 << 62
    turns: int = 0


class Wheels:
    """Several wheels of one model, two of which turn at a time; by successive halving the lowest two remain."""

    def __init__(self, model: Model, seed: int) -> None:
        self._model, self._orders = model, Orders(model)
        self._random = np.random.default_rng(seed)
        self._meets = model.meetings()
        self._large = model.size > model.load().max(initial=0) * WHEELS.large
        self._volume = False
        self._wheels = self._started(0.0)
        self._idle = 0

    def _started(self, noise: float) -> list[_Wheel]:
        gapped = len(self._model.lower) > self._model.count
        starts = (WHEELS.gapped_start, *WHEELS.starts) if gapped else WHEELS.starts
        ranks = (self._orders.rank(keys, noise, self._random) for keys in starts)
        self._volume = not self._volume
        return [_Wheel(self._large_first(rank), bool(i % 2) == self._volume) for i, rank in enumerate(ranks)]

    def _large_first(self, rank: Array) -> Array:
        """The buffers in order of rank, large ones before all others."""
        order: Array = np.lexsort((rank, ~self._large))
        return order

    def turn(self, pool: ThreadPoolExecutor, goal: int, patience_s: float) -> Array:
        """Offsets (bytes), the lower ones of two wheels turned until a height of `goal`, or for so long."""
        pair = sorted(self._wheels, key=lambda wheel: wheel.turns)[:2]
        stop = np.zeros(1, np.int64)
        seeds = self._random.integers(1 << 31, size=len(pair)).tolist()
        jobs = [pool.submit(self._spin, w, goal, seed, stop) for w, seed in zip(pair, seeds, strict=True)]
        try:
            wait(jobs, timeout=patience_s)
        finally:
            stop[0] = 1
        found, success = [], False
        for wheel, job in zip(pair, jobs, strict=True):
            offsets, wheel.order = job.result()
            height = self._model.height(offsets)
            success |= height < wheel.height
            wheel.height, wheel.turns = min(height, wheel.height), wheel.turns + 1
            found.append((height, offsets))
        self._select(success)
        return min(found, key=lambda pair: pair[0])[1]

    def _spin(self, wheel: _Wheel, goal: int, seed: int, stop: npt.NDArray[np.int64]) -> tuple[Array, Array]:
        """A turn with the large buffers alone, then one with all: few as they are, they decide the height."""
        head, order = int(self._large.sum()), wheel.order
        if head < len(order):
            _, lead = spin(self._model, self._meets, order[:head], goal, _rounds(head), seed, stop, wheel.volume)
            order = np.concatenate([lead, order[head:]])
        return spin(self._model, self._meets, order, goal, _rounds(len(order)), seed, stop, wheel.volume)

    def _select(self, success: bool) -> None:
        self._idle = 0 if success else self._idle + 1
        if len(self._wheels) > 2 and all(wheel.turns >= WHEELS.trial_turns for wheel in self._wheels):
            self._wheels = sorted(self._wheels, key=lambda wheel: wheel.height)[: (len(self._wheels) + 1) // 2]
            for wheel in self._wheels:
                wheel.turns = 0
        elif self._idle >= WHEELS.patience_turns:
            self._wheels, self._idle = self._started(WHEELS.noise), 0


def _rounds(count: int) -> int:
    """Packings of `count` buffers in one turn: their time grows with the square."""
    return max(1, min(WHEELS.most_rounds, WHEELS.rounds * WHEELS.round_buffers**2 // max(1, count) ** 2))


def spin(
    model: Model,
    meets: Meets,
    order: Array,
    goal: int,
    rounds: int,
    seed: int,
    stop: npt.NDArray[np.int64],
    volume: bool = False,
) -> tuple[Array, Array]:
    """The best offsets (bytes) within `rounds` packings, and the order that gave them; `order` is where it starts, and
    may hold some of the buffers only: then the others stay at 0, unplaced.

    An order is left for one that packs no higher or, with `volume`, for one whose buffers above the goal have no larger
    sizes together, which also tells packings of equal height apart. Ends early at a height of `goal` bytes or less, or
    when any thread sets `stop[0]`.
    """
    room = np.zeros((4, model.count), np.int64)
    turn = _Turn(
        model.top, model.size, model.alignment, meets, order.copy(), order.copy(), order.copy(),
        room[0], room[1], room[2], room[3], np.zeros(len(order), np.int64), stop, goal, rounds, seed, int(volume),
    )  # fmt: skip
    _spin(turn)
    return turn.best, turn.best_order


@compiled
def _spin(t: _Turn) -> None:
    # The order at hand gives a first packing.
    np.random.seed(t.seed)
    height = _first_fit(t, t.current)
    _note_ends(t, t.ends)
    _copy(t.offsets, t.best)
    cost, best_height = _cost(t, t.ends, height), height
    for _ in range(t.rounds):
        if best_height <= t.goal or t.stop[0] != 0:
            break
        # 1. A trial: buffers that end too high, above the goal or some way up to it, go earlier.
        _copy(t.current, t.trial)
        sharp = t.volume and np.random.random() < WHEELS.sharp
        _escalate(t.trial, t.ends, t.goal if sharp else t.goal + int((height - t.goal) * np.random.random()))
        # 2. Its packing.
        new = _first_fit(t, t.trial)
        _note_ends(t, t.tried)
        reached = _cost(t, t.tried, new)
        # 3. Go on from it where it is no worse, and now and then where it is.
        if reached <= cost or np.random.random() < WHEELS.worse:
            _copy(t.trial, t.current)
            height, cost = new, reached
            _copy(t.tried, t.ends)
        if new < best_height:
            best_height = new
            _copy(t.offsets, t.best)
            _copy(t.trial, t.best_order)


@inner
def _first_fit(t: _Turn, order: Array) -> int:
    """Fill the offsets in that order. Returns the height."""
    height, offsets, size, placed = 0, t.offsets, t.size, t.placed
    for count in range(len(order)):
        i = order[count]
        # 1. The lowest gap among those it meets, which are placed in order of their offsets.
        row, own, step, at = t.meets[i], size[i], t.alignment[i], 0
        for q in range(count):
            k = placed[q]
            if row[k]:
                if offsets[k] >= at + own:
                    break
                if offsets[k] + size[k] > at:
                    at = (offsets[k] + size[k] + step - 1) // step * step
        offsets[i] = at
        height = max(height, at + t.top[i])
        # 2. Its place in that order, by bisection.
        low, high = 0, count
        while low < high:
            middle = (low + high) // 2
            if offsets[placed[middle]] <= at:
                low = middle + 1
            else:
                high = middle
        for q in range(count, low, -1):
            placed[q] = placed[q - 1]
        placed[low] = i
    return height


@inner
def _copy(values: Array, to: Array) -> None:
    for i in range(len(values)):
        to[i] = values[i]


@inner
def _note_ends(t: _Turn, ends: Array) -> None:
    for i in range(len(ends)):
        ends[i] = t.offsets[i] + t.top[i]


@inner
def _cost(t: _Turn, ends: Array, height: int) -> int:
    """The height, or the bytes of the buffers that end above the goal."""
    if not t.volume:
        return height
    total = 0
    for i in range(len(ends)):
        if ends[i] > t.goal:
            total += t.size[i]
    return total


@inner
def _escalate(order: Array, ends: Array, level: int) -> None:
    """Move a few of the buffers that end above `level` to random earlier places."""
    blamed = 0
    for i in order:
        if ends[i] > level:
            blamed += 1
    share = min(WHEELS.moved_share, 4.0 ** np.random.random() / max(blamed, 1))
    for q in range(len(order)):
        i = order[q]
        if ends[i] > level and np.random.random() < share:
            to = int(q * np.random.random())
            for r in range(q, to, -1):
                order[r] = order[r - 1]
            order[to] = i
