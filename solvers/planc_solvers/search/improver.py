"""The half of the planner that improves plans: greedy beginnings, then cycles of annealing, taking up what is proposed."""

import time
from collections import deque
from math import inf
from typing import NamedTuple

from planc.schedule.solver import Progress, SolveOptions
from planc_solvers.bounds.prover import LARGE
from planc_solvers.evaluation.arrays import Arrays, SearchPlan, empty_plan
from planc_solvers.evaluation.evaluate import evaluate
from planc_solvers.evaluation.plan_copies import copy_plan
from planc_solvers.evaluation.workspace import EXCESS, MAKESPAN, workspace
from planc_solvers.moves.form_choices import settle
from planc_solvers.search.annealing import (
    BEST,
    PRICE,
    REBUILDING,
    SCORE,
    SMALL_MOVES,
    Turn,
    anneal,
    annealing,
    ready_search,
    start,
)
from planc_solvers.search.greedy import greedy_plans, ready_greedy
from planc_solvers.solve_state import PROOF_SHARE, SolveState

CHUNK_S = 0.1
"""Time between two looks at the clock and at the other half."""

FAMILIES, GREEDY_SHARE, FIRST_TRIALS, GREEDY_TRIALS = 4, 0.1, 8, 40
"""Families of greedy plans, share of the time that goes to them, how many of each are tried even if they take longer, and
how many one worker tries."""


class Cycle(NamedTuple):
    """One annealing cycle: its end as a share of the time limit, its first and last temperatures relative to the duration
    of 350 tasks and of the whole, the part of its time that goes to rebuilding, and the greedy family whose best plan it
    begins with, if not with the best plan so far."""

    end: float
    heat: float
    cold: float = 2e-6
    rebuilding: float = 0.0
    family: int | None = None


RECOMPUTING = (
    *(Cycle(0.03 * (family + 1), 3e-4, rebuilding=0.5, family=family) for family in range(FAMILIES)),
    Cycle(0.4, 1e-3, rebuilding=0.7),
    Cycle(1.0, 1e-3, rebuilding=0.7),
)
SWAPPING = (
    *(Cycle(0.04 * (family + 1), 3e-4, 1e-5, 0.5, family) for family in range(FAMILIES)),
    Cycle(0.3, 1e-3, 1e-5, 0.8),
    Cycle(1.0, 1e-3, 1e-5, 0.8),
)
"""Annealing does not leave the basin of a bad start, so that the best plan of each family has a short cycle first."""

PACE, FIRST_PACE = 5e-5, 1e-3
"""Pace of the price on excess, and that until a first plan fits. A price that moves faster than the plans can follow
freezes the search."""

SETTLED_GAP, SETTLED_GAIN, SETTLED_S = (1e-3, 5e-3), 1e-4, 2.0
"""A solve ends early when its gap is below the first (without and with swaps) and a whole cycle of at least that many
seconds gained less than the second: what is left is not worth a user's minute."""

ACCESSES_PER_S = 2e7
"""Accesses that one worker evaluates in a second, at least: with one worker the moves are counted, not timed."""

CHUNK = 200
"""Moves between two changes of temperature when they are counted, and at first."""

REBUILT_VALUES = 80
"""A rebuilt plan takes about as long as one move for so many values."""


class Improver:
    """One search for plans of the problem with these `arrays`, which goes on until `standing` says that it is finished."""

    def __init__(self, arrays: Arrays, options: SolveOptions, standing: SolveState) -> None:
        self.arrays, self.options, self.standing = arrays, options, standing
        self.proposals: deque[SearchPlan] = deque([empty_plan(arrays)])
        self.scratch = workspace(arrays)
        self.search = annealing(arrays)
        tasks, self.base = arrays.duration.size, max(int(arrays.duration.sum()), 1)
        self.forms, self.swaps = arrays.form_ns.size > tasks, bool(arrays.swappable.any())
        typical = 350 / tasks
        self.scale = self.base * (max(1.0, typical) if self.swaps else typical)
        self.cycles = SWAPPING if self.swaps else RECOMPUTING
        self.price = self.base * 0.02 / (max(arrays.budget, 1) * 0.01 * max(1.0, tasks / 50))
        self.chunks = {False: CHUNK, True: CHUNK // 20} if arrays.reads.size <= LARGE else {False: 1, True: 1}
        self.starts: dict[int, SearchPlan] = {}
        self.spent, self.counted, self.begun = 0.0, self._counted_moves(), 0.0
        start(arrays, self.search, self.proposals[0], self.price)
        self.search.state[BEST] = inf
        self._settled_forms(empty_plan(arrays))

    @property
    def best_ns(self) -> float:
        """Step time of the best plan; infinite before the first."""
        return float(self.search.state[BEST])

    def begin(self) -> None:
        """Propose greedy plans for a small share of the time."""
        if self.arrays.reads.size > LARGE:
            return
        ready_greedy()
        for family in range(FAMILIES):
            until = self.options.time_limit_s * GREEDY_SHARE * (family + 1) / FAMILIES
            plans = greedy_plans(self.arrays, workspace(self.arrays), self.options.seed, family)
            for trial, plan in enumerate(plans, start=1):
                if plan is not None:
                    self.starts[family] = plan
                    self.proposals.append(plan)
                late = trial >= FIRST_TRIALS and self.standing.elapsed() > until
                if self.standing.finished() or (trial >= GREEDY_TRIALS if self.counted else late):
                    break

    def improve(self) -> None:
        """Anneal in cycles until finished, or until a cycle says that more time will not help."""
        self.begun = self.standing.left()
        for cycle in self.cycles:
            if cycle.family is not None and cycle.family not in self.starts:
                continue
            before, since = self.best_ns, self.standing.left()
            self._run(cycle)
            if self.standing.finished() or self._settled(before, since - self.standing.left()):
                return

    def consider(self, restart: bool = False) -> None:
        """Take up proposals: resume from the best where it beats the current plan; on a `restart` from the best known."""
        if self.proposals or restart:
            self._take_up(restart)
        self.standing.best_ns = min(self.standing.best_ns, self.best_ns)

    def _run(self, cycle: Cycle) -> None:
        """Anneal from the cycle's first temperature to its last, taking up proposals as they come."""
        self.consider(restart=True)
        if cycle.family is not None:
            start(self.arrays, self.search, self.starts[cycle.family], self.price)
        begin, since, rebuilt = self._done(), self.spent, 0.0
        hot, cold = self.scale * cycle.heat, self.base * cycle.cold
        while not self.standing.finished() and (done := self._done()) < cycle.end:
            if self._awaits_proof():
                time.sleep(CHUNK_S)
                self.consider()
                continue
            heat = hot * (cold / hot) ** min(1.0, (done - begin) / (cycle.end - begin))
            rebuilding = rebuilt < cycle.rebuilding * (self.spent - since)
            cost = self._anneal(heat, rebuilding)
            self.spent, rebuilt = self.spent + cost, rebuilt + (cost if rebuilding else 0.0)
            self.consider()
            self._report()

    def _awaits_proof(self) -> bool:
        """Whether the proving half must find the first plan: it does so in seconds, and a move takes as long as that."""
        return (
            self.arrays.reads.size > LARGE and self.swaps and self.best_ns == inf and not self.standing.proved.is_set()
        )

    def _done(self) -> float:
        """Part of the search that is over: of its moves where they are counted, else of its time."""
        return self.spent / self.counted if self.counted else 1 - self.standing.left() / max(self.begun, 1e-9)

    def _counted_moves(self) -> int:
        """Moves of a solve with one worker, whatever the clock says; 0 for several, which go by the clock."""
        if self.options.workers > 1:
            return 0
        seconds = self.options.time_limit_s * (1 - PROOF_SHARE)
        return max(1000, int(seconds * ACCESSES_PER_S / (self.arrays.reads.size + 64)))

    def _anneal(self, heat: float, rebuilding: bool) -> float:
        """Anneal for a while at that temperature; what it cost, in moves where they are counted, else in seconds."""
        ready_search()
        began = time.monotonic()
        seed = int(self.options.seed * 1_000_003 + self.spent * 997) % (1 << 32)
        dear = max(1, self.arrays.size.size // REBUILT_VALUES) if rebuilding else 1
        chunk = max(1, CHUNK // dear) if self.counted else self.chunks[rebuilding]
        pace = PACE if self.swaps or self.best_ns < inf else FIRST_PACE
        anneal(self.arrays, self.search, Turn(REBUILDING if rebuilding else SMALL_MOVES, chunk, heat, pace, seed))
        seconds = time.monotonic() - began
        # Moves that fail cost nothing: a chunk of them must not make the next one endless.
        most = chunk / max(seconds, 1e-6) * min(CHUNK_S, max(self.standing.left(), 0.01))
        self.chunks[rebuilding] = min(2 * chunk, max(1 if rebuilding else 10, int(most)))
        return chunk * dear if self.counted else seconds

    def _settled(self, before: float, seconds: float) -> bool:
        """Whether a cycle that began with the best plan at `before` says that more time will not help."""
        if seconds < SETTLED_S or self.standing.gap() > SETTLED_GAP[self.swaps]:
            return False
        return before - self.best_ns <= SETTLED_GAIN * self.base

    def _report(self) -> None:
        best, bound = self.standing.best_ns, self.standing.bound_ns
        self.options.on_progress(Progress(self.standing.elapsed(), None if best == inf else int(best), bound))

    def _take_up(self, restart: bool) -> None:
        price = float(self.search.state[PRICE])
        candidates = [self.search.best] if restart and self.best_ns < inf else []
        while self.proposals:
            candidates.append(self._settled_forms(self.proposals.popleft()))
        target, chosen = inf if restart else float(self.search.state[SCORE]), None
        for plan in candidates:
            if not evaluate(self.arrays, plan, self.scratch):
                continue
            time_ns, excess = float(self.scratch.total[MAKESPAN]), float(self.scratch.total[EXCESS])
            if excess <= 0 and time_ns < self.best_ns:
                self.search.state[BEST] = time_ns
                copy_plan(plan, self.search.best)
            if (self.swaps or restart) and time_ns + price * excess < target:
                target, chosen = time_ns + price * excess, plan
        if chosen is not None:
            start(self.arrays, self.search, chosen, price)

    def _settled_forms(self, plan: SearchPlan) -> SearchPlan:
        """`plan` with every step in its fastest form that fits, where that makes a better plan of it."""
        if self.forms and evaluate(self.arrays, plan, self.scratch):
            settle(self.arrays, plan, self.scratch)
        return plan
