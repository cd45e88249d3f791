"""Exact search with restarts, in turns with the squeaky wheel: orders and rules alternate on two threads.

Which order solves a hard instance is unpredictable and the times are heavy-tailed, so many short runs beat a long
one; now and then a limit is larger, so that in the end some run is exhaustive and proves its answer. Results depend
on the seed and on the time limit only, not on which thread is faster: runs go in pairs whose results are taken in
order.
"""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import count

import numpy as np
import numpy.typing as npt

from planc.placement.packing_greedy import best_greedy, shuffled_packings
from planc.placement.packing_model import Array, Model
from planc.placement.packing_order import Orders
from planc.placement.packing_search import (
    EXCESS,
    FAILED,
    LOWEST,
    NONE,
    STOP,
    TIGHTEST,
    Problem,
    build_problem,
    search,
)  # fmt: skip
from planc.placement.packing_strata import Stratum, strata
from planc.placement.packing_wheel import WHEEL_BUFFERS, Wheels, spin

# Search keeps every pair of buffers that meet in time (4 bytes each way) and may visit all of them along one path.
SEARCH_BUFFERS = 3_000
# Branching rule, order, shuffle. Measured on hard instances: each is the best on some; those that learn from dead ends
# (Z) are the best on most.
RULES = (
    (LOWEST, "WAT", 0.25),
    (TIGHTEST, "WAT", 0.1),
    (LOWEST, "ZWA", 0.1),
    (LOWEST, "AWT", 0.1),
    (LOWEST, "ZWA", 0.1),
    (LOWEST, "YWA", 0.1),
    (LOWEST, "TWA", 0.1),
)
# Nodes of the shortest run. Most solutions come within a few nodes per buffer or not at all.
NODE_LIMIT, NODES_PER_BUFFER = 500, 4
_SEARCH_S = 1e-6
# Time of the wheels as a part of that of the search, for lifetimes without gaps, at which the search is better.
_WHEEL_SHARE = 0.3
WEIGHT_DECAY = 0.7
PAIR, HALVINGS = 2, 6


@dataclass
class _Rule:
    """One order and branching rule, with what its runs have learned about the sections."""

    choice: int
    keys: str
    noise: float
    weight: npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Job:
    goal: int
    control: Array
    future: "Future[Array | int]"


class Group:
    """Buffers that pack on their own, on `base` bytes: the best offsets (bytes) known, from 0, their height, and the
    proven bound."""

    def __init__(self, model: Model, offsets: Array, seed: int, base: int = 0) -> None:
        self.model, self.offsets, self.base = model, offsets, base
        self.height, self.bound = model.height(offsets), model.load_bound()
        self._seed, self._halvings, self._pairs = seed, 1, 0
        self._problem: Problem | None = None
        self._runs = self._turns()
        self._wheels: Wheels | None = None
        self._wheel_share = 1.0 if len(model.lower) > model.count else _WHEEL_SHARE
        # A guess at what the first search will take, in seconds.
        self._search_s = _SEARCH_S * model.count**2

    @property
    def top(self) -> int:
        """Where the group ends in the slab, in bytes."""
        return self.base + self.height

    def shuffle(self, target: int, deadline: float) -> None:
        """A few more heuristic packings: all that is affordable for a group too large to search."""
        for offsets in shuffled_packings(self.model, self._seed):
            self._take(offsets)
            if self.height <= target or time.monotonic() >= deadline:
                break

    def step(self, pool: ThreadPoolExecutor, target: int, capacity: int | None, deadline: float) -> None:
        """The wheels in proportion to the time of the last search, then a pair of exact searches unless the goal is met."""
        goal = target if capacity is None else capacity
        if self._wheels is None:
            self._wheels = Wheels(self.model, self._seed)
        # A bound far below what is possible says little about which buffers to blame.
        halfway = capacity is None and self._pairs % 2
        started = time.monotonic()
        while self.height > goal and time.monotonic() < deadline:
            self._take(self._wheels.turn(pool, max(goal, self._below()) if halfway else goal, deadline))
            if time.monotonic() - started >= self._search_s * self._wheel_share:
                break
        started = time.monotonic()
        if self.height > goal and started < deadline and self.model.count <= SEARCH_BUFFERS:
            self._search(pool, target, capacity, deadline)
            self._search_s = time.monotonic() - started

    def _search(self, pool: ThreadPoolExecutor, target: int, capacity: int | None, deadline: float) -> None:
        """One pair of runs, at goals between the bound, or the capacity, and the height."""
        if self._problem is None:
            self._problem = build_problem(self.model)
        height = self.height
        jobs = []
        for goal in self._goals(target if capacity is None else capacity, capacity is not None):
            limit, rank, rule = next(self._runs)
            control = np.array([0, limit, 0, NONE], np.int64)
            posed = self._problem._replace(capacity=goal)
            jobs.append(_Job(goal, control, pool.submit(search, posed, rank, rule.choice, control, rule.weight)))
        try:
            for job in jobs:
                self._collect(job, target if capacity is None else capacity, deadline)
        finally:
            # Also when interrupted: the pool waits for its threads.
            for job in jobs:
                job.control[STOP] = 1
        step = -1 if self.height < height else 1
        self._halvings = min(max(1, self._halvings + step), HALVINGS)

    def _collect(self, job: _Job, target: int, deadline: float) -> None:
        if self.height > target:
            wait([job.future], timeout=min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX))
        # Too late, or not needed any more; without effect on a run that has ended.
        job.control[STOP] = 1
        result = job.future.result()
        if not isinstance(result, int):
            self._take(result)
        elif result == FAILED:
            # The packing known would not have been pruned at its own height, so the excess is not the initial NONE.
            self.bound = max(self.bound, job.goal + int(job.control[EXCESS]))

    def _goals(self, target: int, capped: bool) -> tuple[int, int]:
        """Every other pair attacks the target with one run, or with a capacity with both; the others lower the height."""
        self._pairs += 1
        below = max(target, self._below())
        if self._pairs % 2:
            return target, target if capped else below
        return below, below

    def _below(self) -> int:
        """A capacity between bound and height: halfway, closer to the height after failures, back after successes."""
        return self.height - max(1, (self.height - self.bound) >> self._halvings)

    def _turns(self) -> Iterator[tuple[int, Array, _Rule]]:
        random = np.random.default_rng(self._seed)
        orders = Orders(self.model)
        rules = [_Rule(*rule, np.full(self.model.sections, 1e-3)) for rule in RULES]
        for turn in count(1):
            limit = (NODE_LIMIT + NODES_PER_BUFFER * self.model.count) * luby(turn)
            for rule in rules:
                rule.weight *= WEIGHT_DECAY
                noise = rule.noise if turn > 1 else 0.0
                yield limit, orders.rank(rule.keys, noise, random, rule.weight), rule

    def _take(self, offsets: Array) -> None:
        height = self.model.height(offsets)
        if height < self.height:
            self.offsets, self.height = offsets, height


def luby(turn: int) -> int:
    """The restart lengths 1, 1, 2, 1, 1, 2, 4, … of Luby, Sinclair and Zuckerman (1993), from turn 1."""
    power = turn.bit_length()
    return 1 << (power - 1) if turn == (1 << power) - 1 else luby(turn - (1 << (power - 1)) + 1)


def load_search(model: Model) -> None:
    """Load the compiled search, or compile it on a machine's first use, by a run that stops at its first node."""
    problem = build_problem(model.select(np.zeros(1, np.int64)))
    search(problem, np.zeros(1, np.int64), LOWEST, np.array([0, 0, 0, NONE], np.int64), np.zeros(len(problem.load)))
    single = model.select(np.zeros(1, np.int64))
    spin(single, single.meetings(), np.zeros(1, np.int64), 0, 1, 0, np.zeros(1, np.int64))


def improve(
    model: Model, offsets: Array, bound: int, capacity: int | None, deadline: float, seed: int
) -> tuple[Array, int]:
    """Better offsets (bytes) and lower bound, by working on the highest group until `deadline` (time.monotonic, s).

    Ends early when the highest group meets the bound or fits the capacity, or the bound exceeds the capacity.
    """
    fixed, parts = strata(model)
    groups = [_group(part, offsets, bound if capacity is None else capacity, seed) for part in parts]
    for group in groups:
        target = bound if capacity is None else capacity
        if group.model.count > WHEEL_BUFFERS and group.top > target:
            group.shuffle(target - group.base, deadline)
    with ThreadPoolExecutor(PAIR) as pool:
        while groups and time.monotonic() < deadline:
            highest = max(groups, key=lambda group: group.top)
            if highest.top <= (bound if capacity is None else capacity) or highest.model.count > WHEEL_BUFFERS:
                break
            limit = None if capacity is None else capacity - highest.base
            highest.step(pool, bound - highest.base, limit, deadline)
            bound = max(bound, highest.base + highest.bound)
            if capacity is not None and bound > capacity:
                break
    for part, group in zip(parts, groups, strict=True):
        fixed[part.chosen] = group.base + group.offsets
    return (fixed if model.height(fixed) < model.height(offsets) else offsets), bound


def _group(part: Stratum, offsets: Array, target: int, seed: int) -> Group:
    """A stratum to work on, from what the packing of all buffers made of it, or from one of its own if it lies higher."""
    known = offsets[part.chosen] - part.base
    if known.min() < 0:
        known = best_greedy(part.model, target - part.base)
    return Group(part.model, known, seed, part.base)
