"""Restarted exact searches of one model: orders and rules in rotation, with what earlier runs have learned.

Which order solves a hard instance is unpredictable and the times are heavy-tailed, so many short runs beat a long
one; now and then a limit is larger, so that in the end some run is exhaustive and proves its answer. A run begins with
the failures that those before it, in the same place of their pair and towards the same goal, have proved.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import count

import numpy as np
import numpy.typing as npt

from planc.packing.exact.search import FEWEST, LAST, LOWEST, search
from planc.packing.exact.state import EXCESS, NONE, build_problem, new_memory
from planc.packing.heuristics.order import Orders
from planc.packing.model import Array, Model


@dataclass(frozen=True, slots=True)
class RestartSettings:
    """Which runs there are, and how long."""

    rules: tuple[tuple[int, str, float], ...] = (
        (LOWEST, "WAT", 0.25),
        (FEWEST, "WAT", 0.1),
        (LOWEST, "YZW", 0.1),
        (FEWEST, "YZW", 0.1),
        (FEWEST | LAST, "WAT", 0.1),
        (LOWEST, "ZWA", 0.1),
    )
    """Branching rule, order, shuffle. Half of them begin with what the dead ends have shown (Y, Z). The first runs, not
    shuffled and with no dead ends to go by, are different: longest first, or largest, and different branchings."""
    nodes: int = 1000
    """Nodes of the shortest run, and so many more …"""
    nodes_per_buffer: float = 1.5
    """… for each buffer: most solutions come within a few nodes per buffer or not at all."""
    weight_kept: float = 0.7
    """What remains of a section's weight from one run of a rule to its next: less forgets where dead ends were, more goes
    by those of long ago."""


SETTINGS = RestartSettings()


@dataclass
class _Rule:
    """One order and branching rule, with what its runs have learned about the sections: 1, and more where they failed."""

    choice: int
    keys: str
    noise: float
    weight: npt.NDArray[np.float64]


@dataclass
class _Memory:
    """Failures proved towards one goal, and by how many bytes at least (see EXCESS)."""

    goal: int
    excess: int = NONE
    failures: Array = field(default_factory=new_memory)


@dataclass(frozen=True)
class SearchRun:
    """A search under way towards a height of `goal` bytes; `future` gives what `search` returns."""

    goal: int
    control: Array
    future: "Future[Array | int]"
    memory: _Memory

    def excess(self) -> int:
        """Bytes by which a run that failed missed its goal at least, with all runs whose failures it was given."""
        self.memory.excess = min(self.memory.excess, int(self.control[EXCESS]))
        return self.memory.excess


class SearchRuns:
    """Runs of one model, in places 0, 1, … of a group of runs that go on at the same time."""

    def __init__(self, model: Model, seed: int) -> None:
        self._problem = build_problem(model)
        self._model, self._seed = model, seed
        self._turns = self._rotation()
        self._memories: dict[int, _Memory] = {}

    def start(self, pool: ThreadPoolExecutor, goal: int, place: int) -> SearchRun:
        """The next run, towards a height of `goal` bytes."""
        limit, rank, rule = next(self._turns)
        control = np.array([0, limit, 0, NONE], np.int64)
        memory = self._memories.get(place)
        if memory is None or memory.goal != goal:
            memory = self._memories[place] = _Memory(goal)
        posed = replace(self._problem, capacity=goal)
        future = pool.submit(search, posed, rank, rule.choice, control, rule.weight, memory.failures)
        return SearchRun(goal, control, future, memory)

    def _rotation(self) -> Iterator[tuple[int, Array, _Rule]]:
        random = np.random.default_rng(self._seed)
        orders = Orders(self._model)
        rules = [_Rule(*rule, np.ones(self._model.sections)) for rule in SETTINGS.rules]
        for turn in count(1):
            limit = int(SETTINGS.nodes + SETTINGS.nodes_per_buffer * self._model.count) * luby(turn)
            for rule in rules:
                rule.weight -= (1 - SETTINGS.weight_kept) * (rule.weight - 1)
                noise = rule.noise if turn > 1 else 0.0
                yield limit, orders.rank(rule.keys, noise, random, rule.weight), rule


def luby(turn: int) -> int:
    """The restart lengths 1, 1, 2, 1, 1, 2, 4, … of Luby, Sinclair and Zuckerman (1993), from turn 1."""
    power = turn.bit_length()
    return 1 << (power - 1) if turn == (1 << power) - 1 else luby(turn - (1 << (power - 1)) + 1)
