"""Exact search with restarts: orders and branching rules take turns on two threads, under growing node limits.

Which order solves a hard instance is unpredictable and the times are heavy-tailed, so many short runs beat a long
one; the limits grow, so that in the end some run is exhaustive and proves its answer. Results depend on the seed and
on the time limit only, not on which thread is faster: runs go in pairs whose results are taken in order.
"""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from planc.placement.packing_model import Array, Model
from planc.placement.packing_order import Orders
from planc.placement.packing_search import EXCESS, FAILED, LOWEST, NONE, STOP, TIGHTEST, build_problem, search

# Found by trying all orders on hard instances: each of these is the best on some of them.
RULES = (
    (LOWEST, "WAT"), (LOWEST, "AWT"), (TIGHTEST, "WAT"), (LOWEST, "ZWA"), (LOWEST, "YWA"), (LOWEST, "TWA"),
    (LOWEST, "SWT"),
)  # fmt: skip
NODE_LIMIT, NODE_GROWTH = 5_000, 1.2
NOISE, WEIGHT_DECAY = 0.1, 0.7
PAIR, HALVINGS = 2, 6


@dataclass
class _Rule:
    """One order and branching rule, with what its runs have learned about the sections."""

    choice: int
    keys: str
    weight: npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Job:
    goal: int
    control: Array
    future: "Future[Array | int]"


@dataclass
class Improvement:
    """The best offsets (bytes) known, their height, and the proven lower bound; `run` makes them meet."""

    model: Model
    offsets: Array
    height: int
    bound: int
    _halvings: int = field(default=1, init=False)

    def run(self, target: int, capacity: int | None, deadline: float, seed: int) -> None:
        """Search until the height is at most `target`, the bound meets the height or exceeds `capacity`, or the time
        (time.monotonic seconds) is over. Without a capacity one thread attacks the bound, the other the height."""
        problem = build_problem(self.model)
        runs = self._runs(seed)
        with ThreadPoolExecutor(PAIR) as pool:
            while not self._settled(target, capacity) and time.monotonic() < deadline:
                jobs = []
                for goal in (self.bound, self._below()) if capacity is None else (capacity, capacity):
                    limit, rank, rule = next(runs)
                    control = np.array([0, limit, 0, NONE], np.int64)
                    posed = problem._replace(capacity=goal)
                    future = pool.submit(search, posed, rank, rule.choice, control, rule.weight)
                    jobs.append(_Job(goal, control, future))
                height = self.height
                self._collect(jobs, target, capacity, deadline)
                self._halvings = 1 if self.height < height else self._halvings % HALVINGS + 1

    def _settled(self, target: int, capacity: int | None) -> bool:
        proven = self.bound > capacity if capacity is not None else False
        return proven or self.height <= max(target, self.bound)

    def _below(self) -> int:
        """A capacity between bound and height: halfway, and closer to the height after every run in vain."""
        return max(self.bound, self.height - max(1, (self.height - self.bound) >> self._halvings))

    def _runs(self, seed: int) -> Iterator[tuple[int, Array, _Rule]]:
        random = np.random.default_rng(seed)
        orders = Orders(self.model)
        rules = [_Rule(choice, keys, np.full(self.model.sections, 1e-3)) for choice, keys in RULES]
        limit, noise = float(NODE_LIMIT), 0.0
        while True:
            for rule in rules:
                rule.weight *= WEIGHT_DECAY
                yield int(limit), orders.rank(rule.keys, noise, random, rule.weight), rule
            limit, noise = limit * NODE_GROWTH, NOISE

    def _collect(self, jobs: list["_Job"], target: int, capacity: int | None, deadline: float) -> None:
        try:
            for job in jobs:
                wait([job.future], timeout=max(0.0, deadline - time.monotonic()))
                if not job.future.done() or self._settled(target, capacity):
                    job.control[STOP] = 1
                result = job.future.result()
                if not isinstance(result, int):
                    self._take(result)
                elif result == FAILED:
                    # Every packing known is at least this high, so the excess is never the initial NONE.
                    self.bound = max(self.bound, job.goal + int(job.control[EXCESS]))
        finally:
            for job in jobs:
                job.control[STOP] = 1

    def _take(self, offsets: Array) -> None:
        height = self.model.height(offsets)
        if height < self.height:
            self.offsets, self.height = offsets, height
