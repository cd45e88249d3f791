"""Exact search with restarts, in turns with the squeaky wheel: orders and rules alternate on two threads.

Which order solves a hard instance is unpredictable and the times are heavy-tailed, so many short runs beat a long
one; now and then a limit is larger, so that in the end some run is exhaustive and proves its answer. Results depend
on the seed and on the time limit only, not on which thread is faster: runs go in pairs whose results are taken in
order.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass

import numpy as np

from planc.clock import WALL, StoppableClock
from planc.packing.exact.restarts import SearchRun, SearchRuns
from planc.packing.exact.search import FAILED, LOWEST, search
from planc.packing.exact.state import NODES, NONE, STOP, build_problem, new_memory
from planc.packing.heuristics.greedy import best_greedy, shuffled_packings
from planc.packing.heuristics.squeaky_wheel import WHEELS, Wheels, spin
from planc.packing.model import Array, Model
from planc.packing.strata import Stratum, strata
from planc.packing.tight import Tied, tie


@dataclass(frozen=True, slots=True)
class PortfolioSettings:
    """How searches share the time."""

    searched_buffers: int = 3_000
    """Larger groups are not searched exactly: a search keeps every pair of buffers that meet in time (4 bytes each way)
    and may visit all of them along one path."""
    first_search_s: float = 1e-6
    """What the first pair of searches is guessed to take, for each pair of buffers, until one has been timed."""
    wheel_share: float = 0.3
    """Time of the wheels as a part of that of the search, for lifetimes without gaps, at which the search is better."""
    pair: int = 2
    """Jobs side by side, whose results are taken in order: the answer does not depend on which thread is faster."""
    halvings: int = 6
    """The next goal lies at most 2^-halvings of the way from the height to the bound: after failures ever closer to the
    height, where it is easier to find and gains less."""
    turn_s: float = 0.04
    """Where work is counted: seconds that a turn of the wheels counts, …"""
    node_s: float = 2e-8
    """… each buffer at a node of the exact search, …"""
    shuffled_s: float = 2e-6
    """… and each in a shuffled skyline."""


SETTINGS = PortfolioSettings()


class BufferGroup:
    """Buffers that pack on their own, on `base` bytes: the best offsets (bytes) known, from 0, their height, and the
    proven bound."""

    def __init__(self, model: Model, offsets: Array, seed: int, base: int = 0, clock: StoppableClock = WALL) -> None:
        self._clock = clock
        self.model, self.offsets, self.base = model, offsets, base
        self.height, self.bound = model.height(offsets), model.load_bound()
        self._seed, self._halvings, self._pairs = seed, 1, 0
        # The searches towards a height equal to the load, and those towards any other.
        self._tied: tuple[Tied, SearchRuns] | None = None
        self._runs: SearchRuns | None = None
        self._load = int(model.load().max(initial=0))
        self._wheels: Wheels | None = None
        self._wheel_share = 1.0 if len(model.lower) > model.count else SETTINGS.wheel_share
        # Seconds of the wheels and of the search in all; these begin with a guess at what the first pair will take.
        self._wheel_s, self._search_s = 0.0, SETTINGS.first_search_s * model.count**2
        self._turns = 0

    @property
    def top(self) -> int:
        """Where the group ends in the slab, in bytes."""
        return self.base + self.height

    def shuffle(self, target: int, deadline: float) -> None:
        """More heuristic packings: a few, which are often enough, or for a group too large to search all the time."""
        endless = self.model.count > WHEELS.buffers
        found = self._side_by_side() if endless else shuffled_packings(self.model, self._seed)
        for offsets in found:
            self._take(offsets)
            self._clock.spend(SETTINGS.shuffled_s * self.model.count)
            if self.height <= target or self._clock.now() >= deadline:
                break

    def _side_by_side(self) -> Iterator[Array]:
        """Shuffled packings without end, made on two threads and taken in turns."""
        sources = [
            shuffled_packings(self.model, SETTINGS.pair * self._seed + place, endless=True)
            for place in range(SETTINGS.pair)
        ]
        with ThreadPoolExecutor(SETTINGS.pair) as pool:
            while True:
                yield from [job.result() for job in [pool.submit(next, source) for source in sources]]

    def step(self, pool: ThreadPoolExecutor, target: int, capacity: int | None, deadline: float) -> None:
        """The wheels, unless they have had their part of the time, then a pair of exact searches unless the goal is met."""
        goal = target if capacity is None else capacity
        searched = self.model.count <= SETTINGS.searched_buffers
        while self.height > goal and self._clock.now() < deadline:
            if searched and self._wheel_s >= self._search_s * self._wheel_share:
                break
            self._turn(pool, goal, capacity is None, deadline)
            if not searched:
                break
        started = self._clock.now()
        if self.height > goal and started < deadline and searched:
            self._search(pool, target, capacity, deadline)
            self._search_s += self._clock.now() - started

    def _turn(self, pool: ThreadPoolExecutor, goal: int, minimise: bool, deadline: float) -> None:
        """One turn of two wheels. When minimising, a bound far below what is possible says little about which buffers to
        blame, so that every other turn aims halfway."""
        started = self._clock.now()
        if self._wheels is None:
            self._wheels = Wheels(self.model, self._seed)
        self._turns += 1
        aim = max(goal, self._below()) if minimise and self._turns % 2 else goal
        self._take(self._wheels.turn(pool, aim, self._patience(deadline)))
        self._clock.spend(SETTINGS.turn_s)
        self._wheel_s += self._clock.now() - started

    def _patience(self, deadline: float) -> float:
        """Seconds of wall time for which a job is awaited: as long as it takes where work is counted."""
        left = threading.TIMEOUT_MAX if self._clock.counted else deadline - self._clock.now()
        return min(max(0.0, left), threading.TIMEOUT_MAX)

    def _search(self, pool: ThreadPoolExecutor, target: int, capacity: int | None, deadline: float) -> None:
        """One pair of runs, at goals between the bound, or the capacity, and the height."""
        height, aim = self.height, target if capacity is None else capacity
        runs: list[tuple[SearchRun, Tied | None]] = []
        try:
            for place, goal in enumerate(self._goals(aim, capacity is not None)):
                self._start(pool, goal, place, runs)
            for run, tied in runs:
                self._collect(run, tied, aim, deadline)
        finally:
            # Also when interrupted: the pool waits for its threads.
            for run, _ in runs:
                run.control[STOP] = 1
        step = -1 if self.height < height else 1
        self._halvings = min(max(1, self._halvings + step), SETTINGS.halvings)

    def _start(
        self, pool: ThreadPoolExecutor, goal: int, place: int, runs: list[tuple[SearchRun, Tied | None]]
    ) -> None:
        """Add a run towards `goal`, of the tied model where that is the height of the load, unless tying disproves it."""
        if goal == self._load and self._tied is None:
            tied = tie(self.model, goal)
            if tied is None:
                self.bound = max(self.bound, goal + 1)
                return
            self._tied = tied, SearchRuns(tied.model, self._seed)
        if goal == self._load and self._tied is not None:
            runs.append((self._tied[1].start(pool, goal, place), self._tied[0]))
            return
        if self._runs is None:
            self._runs = SearchRuns(self.model, self._seed)
        runs.append((self._runs.start(pool, goal, place), None))

    def _collect(self, run: SearchRun, tied: Tied | None, target: int, deadline: float) -> None:
        if self.height > target or self._clock.counted:
            wait([run.future], timeout=self._patience(deadline))
            self._clock.spend(int(run.control[NODES]) * self.model.count * SETTINGS.node_s)
        # Too late, or not needed any more; without effect on a run that has ended.
        run.control[STOP] = 1
        result = run.future.result()
        excess = run.excess()
        if not isinstance(result, int):
            self._take(result if tied is None else result[tied.group])
        elif result == FAILED:
            # The packing known would not have been pruned at its own height, so the excess is not the initial NONE.
            self.bound = max(self.bound, run.goal + (excess if tied is None else 1))

    def _goals(self, target: int, capped: bool) -> tuple[int, int]:
        """A pair attacks the target with one run, with a capacity with both; every other pair, with a capacity every third,
        lowers the height."""
        self._pairs += 1
        below = max(target, self._below())
        if self._pairs % (3 if capped else 2):
            return target, target if capped else below
        return below, below

    def _below(self) -> int:
        """A capacity between bound and height: halfway, closer to the height after failures, back after successes."""
        return self.height - max(1, (self.height - self.bound) >> self._halvings)

    def _take(self, offsets: Array) -> None:
        height = self.model.height(offsets)
        if height < self.height:
            self.offsets, self.height = offsets, height


def load_search(model: Model) -> None:
    """Load the compiled search, or compile it on a machine's first use, by runs that stop at once."""
    single = model.select(np.zeros(1, np.int64))
    rank, weight = np.zeros(1, np.int64), np.ones(single.sections)
    search(build_problem(single), rank, LOWEST, np.array([0, 0, 0, NONE], np.int64), weight, new_memory())
    spin(single, single.meetings(), rank, 0, 1, 0, np.zeros(1, np.int64))


def improve(
    model: Model,
    offsets: Array,
    bound: int,
    capacity: int | None,
    deadline: float,
    seed: int,
    clock: StoppableClock = WALL,
) -> tuple[Array, int]:
    """Better offsets (bytes) and lower bound, by working on the highest group until `deadline` (by the clock, s),
    which stands still while the search is compiled.

    Ends early when the highest group meets the bound or fits the capacity, or the bound exceeds the capacity.
    """
    fixed, parts = strata(model)
    target = bound if capacity is None else capacity
    groups = [_group(part, offsets, target, seed, clock) for part in parts]
    for group in sorted(groups, key=lambda group: -group.top):
        if group.top > target:
            group.shuffle(target - group.base, deadline)
    if any(group.top > target and group.model.count <= WHEELS.buffers for group in groups):
        with clock.stopped():
            load_search(model)
        bound = _search(groups, bound, capacity, deadline, clock)
    for part, group in zip(parts, groups, strict=True):
        fixed[part.chosen] = group.base + group.offsets
    return (fixed if model.height(fixed) < model.height(offsets) else offsets), bound


def _search(groups: list[BufferGroup], bound: int, capacity: int | None, deadline: float, clock: StoppableClock) -> int:
    """Lower the groups in place, the highest one first; the proven bound of all of them together (bytes)."""
    with ThreadPoolExecutor(SETTINGS.pair) as pool:
        while clock.now() < deadline:
            highest = max(groups, key=lambda group: group.top)
            if highest.top <= (bound if capacity is None else capacity) or highest.model.count > WHEELS.buffers:
                break
            limit = None if capacity is None else capacity - highest.base
            highest.step(pool, bound - highest.base, limit, deadline)
            bound = max(bound, highest.base + highest.bound)
            if capacity is not None and bound > capacity:
                break
    return bound


def _group(part: Stratum, offsets: Array, target: int, seed: int, clock: StoppableClock) -> BufferGroup:
    """A stratum to work on, from what the packing of all buffers made of it, or from one of its own if it lies higher."""
    known = offsets[part.chosen] - part.base
    if known.min() < 0:
        known = best_greedy(part.model, target - part.base)
    return BufferGroup(part.model, known, seed, part.base, clock)
