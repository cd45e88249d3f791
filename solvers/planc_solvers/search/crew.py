"""Annealings of one problem side by side, a thread each, which go on from one another's better plans.

Alone, several differ by no more than their seeds do. So after each turn one that lies behind another by more than its
temperature explains goes on from that one's plan, as in go with the winners (Aldous and Vazirani 1994): many moves of a
large problem are then tried in the time of one.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from math import inf

import numpy as np

from planc_solvers.evaluation.arrays import Arrays
from planc_solvers.evaluation.plan_copies import copy_plan
from planc_solvers.evaluation.workspace import EXCESS, MAKESPAN
from planc_solvers.search.annealing import (
    BEST,
    CURRENT,
    FIRST_PRICE,
    PRICE,
    SCORE,
    Annealing,
    Turn,
    anneal,
    annealing,
    start,
)

MOST = 16
"""Annealings of a crew: the more there are, the more alike their plans."""


MOST_ACCESSES = 400_000
"""Accesses of all their problems together: an annealing holds some 2 kB for each."""


class Crew:
    """The annealing `first`, whose best plan is that of all, and others beside it as there are cores."""

    def __init__(self, arrays: Arrays, first: Annealing) -> None:
        self.arrays, self.first = arrays, first
        self._others: list[Annealing] = []
        self._generator = np.random.default_rng(0)

    def gather(self) -> None:
        """Let all others go on from the current plan of the first, from its next turn on."""
        self._others.clear()

    def anneal(self, turn: Turn, count: int) -> None:
        """One turn of `count` annealings; the seed of the turn is the first's, and those that follow are the others'."""
        count = min(count, MOST, MOST_ACCESSES // max(1, self.arrays.reads.size))
        if count <= 1:
            anneal(self.arrays, self.first, turn)
            return
        while len(self._others) < count - 1:
            self._others.append(self._twin())
        others = self._others[: count - 1]
        with ThreadPoolExecutor(count - 1) as pool:
            jobs = [
                pool.submit(anneal, self.arrays, other, replace(turn, seed=(turn.seed + (place << 20)) % (1 << 32)))
                for place, other in enumerate(others, start=1)
            ]
            anneal(self.arrays, self.first, turn)
            for job in jobs:
                job.result()
        self._exchange([self.first, *others], turn.heat)

    def _twin(self) -> Annealing:
        """An annealing at the current plan of the first, at the same price."""
        twin = annealing(self.arrays)
        twin.state[BEST], twin.state[FIRST_PRICE] = inf, self.first.state[FIRST_PRICE]
        self._follow(twin, self.first)
        return twin

    def _follow(self, annealing: Annealing, other: Annealing) -> None:
        start(self.arrays, annealing, other.plans[int(other.state[CURRENT])], float(other.state[PRICE]))

    def _exchange(self, all_: list[Annealing], heat: float) -> None:
        """Give the first the best plan of all; whoever lies behind a rival, drawn at random, goes on from its plan."""
        best = min(all_, key=lambda one: float(one.state[BEST]))
        if best.state[BEST] < self.first.state[BEST]:
            self.first.state[BEST] = best.state[BEST]
            copy_plan(best.best, self.first.best)
        behind = -heat * np.log(1.0 - self._generator.random(len(all_)))
        rivals = self._generator.permutation(len(all_))
        for one, rival, margin in zip(all_, rivals, behind, strict=True):
            other = all_[rival]
            place, price = other.places[int(other.state[CURRENT])], float(one.state[PRICE])
            if place.total[MAKESPAN] + price * place.total[EXCESS] + margin < one.state[SCORE]:
                self._follow(one, other)
