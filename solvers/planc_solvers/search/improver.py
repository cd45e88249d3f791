"""The half of the planner that improves plans: greedy beginnings, then cycles of annealing, taking up what is proposed."""

import time
from collections import deque
from dataclasses import dataclass
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
    annealing,
    ready_search,
    start,
)
from planc_solvers.search.crew import Crew
from planc_solvers.search.greedy import greedy_plans, ready_greedy
from planc_solvers.solve_state import SolveState


@dataclass(frozen=True, slots=True)
class ImproverSettings:
    """What the search does with its time."""

    chunk_s: float = 0.1
    """Time between two looks at the clock and at the other half."""
    greedy_share: float = 0.1
    """Share of the time that goes to greedy plans."""
    call_s: float = 5e-4
    """What a greedy plan and a stretch of annealing count besides their moves: what Python does around them."""
    first_trials: int = 8
    """Greedy plans of each family that are tried even if they take longer …"""
    first_share: float = 0.5
    """… than this share, once there is one."""
    pace: float = 5e-5
    """Pace of the price on excess. A price that moves faster than the plans can follow freezes the search: with 1e-4 from
    the start `layered 1000` at 90 % had no plan after 30 s."""
    first_pace: float = 1e-3
    """The same without swaps until a first plan fits."""
    settled_gap: float = 1e-3
    """Without swaps, a solve ends early when its gap is below this and a whole cycle gained next to nothing: what is left
    is not worth a user's minute. A gap that the user asks for (`SolveOptions.gap`) takes its place."""
    settled_gap_swapping: float = 5e-3
    """The same with swaps, where bounds are further from what can be reached."""
    settled_gain: float = 1e-4
    """Next to nothing, relative to the time of all tasks."""
    settled_s: float = 2.0
    """Shortest cycle that can say so."""
    moves: int = 200
    """Moves between two changes of temperature when work is counted, and at first."""
    rebuilt_values: int = 80
    """A rebuilt plan takes about as long as one move for so many values."""
    accesses_per_s: float = 2e7
    """Accesses that one worker evaluates in a second, at least: what a move counts where work is counted."""
    families: int = 4
    """Families of greedy plans. Annealing does not leave the basin of a bad start, so that each is annealed for a while."""


SETTINGS = ImproverSettings()


class Cycle(NamedTuple):
    """One annealing cycle."""

    end: float
    """Its end as a share of the time limit."""
    heat: float
    """Its first temperature, relative to the duration of 350 tasks. Three times as much, or one long cooling instead of
    cycles, changed no more than another seed does."""
    cold: float = 2e-6
    """Its last temperature, relative to the duration of the whole."""
    rebuilding: float = 0.0
    """The part of its time that goes to rebuilding: half and more of it, as that changes together what small moves
    cannot."""
    family: int | None = None
    """The greedy family whose best plan it begins with, if not with the best plan so far."""


RECOMPUTING = (
    *(Cycle(0.03 * (family + 1), 3e-4, rebuilding=0.5, family=family) for family in range(SETTINGS.families)),
    Cycle(0.4, 1e-3, rebuilding=0.7),
    Cycle(1.0, 1e-3, rebuilding=0.7),
)
SWAPPING = (
    *(Cycle(0.04 * (family + 1), 3e-4, 1e-5, 0.5, family) for family in range(SETTINGS.families)),
    Cycle(0.3, 3e-4, 1e-5, 0.5),
    Cycle(1.0, 3e-4, 1e-5, 0.5),
)
"""Annealing does not leave the basin of a bad start, so that the best plan of each family has a short cycle first. At
1e-3, with 0.8 of it rebuilding, the last cycle gained nothing in 7.5 s on steps of ResNet-50 and of a U-Net."""


class Improver:
    """One search for plans of the problem with these `arrays`, which goes on until `state` says that it is finished."""

    def __init__(self, arrays: Arrays, options: SolveOptions, state: SolveState) -> None:
        self.arrays, self.options, self.state = arrays, options, state
        self.proposals: deque[SearchPlan] = deque([empty_plan(arrays)])
        self.scratch = workspace(arrays)
        self.search = annealing(arrays)
        self.crew = Crew(arrays, self.search)
        tasks, self.base = arrays.duration.size, max(int(arrays.duration.sum()), 1)
        self.forms, self.swaps = arrays.form_ns.size > tasks, bool(arrays.swappable.any())
        typical = 350 / tasks
        self.scale = self.base * (max(1.0, typical) if self.swaps else typical)
        self.cycles = SWAPPING if self.swaps else RECOMPUTING
        self.price = self.base * 0.02 / (max(arrays.budget, 1) * 0.01 * max(1.0, tasks / 50))
        self.move_s = (arrays.reads.size + 64) / SETTINGS.accesses_per_s
        large = arrays.reads.size > LARGE
        self.chunks = {False: 1 if large else SETTINGS.moves, True: 1 if large else SETTINGS.moves // 20}
        self.starts: dict[int, SearchPlan] = {}
        self.spent, self.turns, self.begun = 0.0, 0, 0.0
        start(arrays, self.search, self.proposals[0], self.price)
        self.search.state[BEST] = inf
        self._settled_forms(empty_plan(arrays))

    @property
    def best_ns(self) -> float:
        """Step time of the best plan; infinite before the first."""
        return float(self.search.state[BEST])

    def resumed(self) -> bool:
        """Whether the search goes on from a start that was given and fits, or was made to."""
        if self.options.start is not None:
            self.consider()
        return self.options.start is not None and self.best_ns < inf

    def begin(self) -> None:
        """Propose greedy plans for a small share of the time, where there is nothing to go on from."""
        if self.arrays.reads.size > LARGE or self.resumed():
            return
        ready_greedy()
        for family in range(SETTINGS.families):
            until = self.options.time_limit_s * SETTINGS.greedy_share / SETTINGS.families + self.state.elapsed()
            plans = greedy_plans(self.arrays, workspace(self.arrays), self.options.seed, family)
            for trial, plan in enumerate(plans, start=1):
                if plan is not None:
                    self.starts[family] = plan
                    self.proposals.append(plan)
                self.state.clock.spend(self.move_s * self._rebuilt_moves() + SETTINGS.call_s)
                if self.state.finished() or self._late(trial, until):
                    break

    def _late(self, trial: int, until: float) -> bool:
        """Whether a family of greedy plans has had its time, and at least a few trials unless these take too long."""
        elapsed, counted = self.state.elapsed(), self.state.clock.counted
        hurried = bool(self.starts) and elapsed > SETTINGS.first_share * self.options.time_limit_s
        return elapsed > until and (trial >= SETTINGS.first_trials or counted or hurried)

    def improve(self) -> None:
        """Anneal in cycles until finished, or until a cycle says that more time will not help."""
        self.begun = self.state.elapsed()
        for cycle in self.cycles:
            if cycle.family is not None and cycle.family not in self.starts:
                continue
            before, since = self.best_ns, self.state.left()
            self._run(cycle)
            if self.state.finished() or self._settled(before, since - self.state.left()):
                return

    def consider(self, restart: bool = False) -> None:
        """Take up proposals: resume from the best where it beats the current plan; on a `restart` from the best known."""
        if self.proposals or restart:
            self._take_up(restart)
        self.state.best_ns = min(self.state.best_ns, self.best_ns)

    def _run(self, cycle: Cycle) -> None:
        """Anneal from the cycle's first temperature to its last, taking up proposals as they come."""
        self.consider(restart=True)
        if cycle.family is not None:
            start(self.arrays, self.search, self.starts[cycle.family], self.price)
        self.crew.gather()
        begin, since, rebuilt = self._done(), self.spent, 0.0
        hot, cold = self.scale * cycle.heat, self.base * cycle.cold
        while not self.state.finished() and (done := self._done()) < cycle.end:
            if self._awaits_proof():
                time.sleep(SETTINGS.chunk_s)
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
        return self.arrays.reads.size > LARGE and self.swaps and self.best_ns == inf and not self.state.proved.is_set()

    def _done(self) -> float:
        """Part of the search's time that is over; a first plan may end what more time there was for it."""
        left = self.state.left()
        return 1 - left / max(self.state.elapsed() + left - self.begun, 1e-9)

    def _rebuilt_moves(self) -> int:
        """Moves that take as long as a rebuilt plan."""
        return max(1, self.arrays.size.size // SETTINGS.rebuilt_values)

    def _anneal(self, heat: float, rebuilding: bool) -> float:
        """Anneal for a while at that temperature; the seconds that it took, or counts."""
        ready_search()
        clock, dear = self.state.clock, self._rebuilt_moves() if rebuilding else 1
        chunk = max(1, SETTINGS.moves // dear) if clock.counted else self.chunks[rebuilding]
        pace = SETTINGS.pace if self.swaps or self.best_ns < inf else SETTINGS.first_pace
        seed = int(self.options.seed * 1_000_003 + self.turns) % (1 << 32)
        began, self.turns = clock.now(), self.turns + 1
        turn = Turn(REBUILDING if rebuilding else SMALL_MOVES, chunk, heat, pace, seed)
        self.crew.anneal(turn, self._free_workers())
        clock.spend(chunk * dear * self.move_s + SETTINGS.call_s)
        seconds = clock.now() - began
        # Moves that fail cost nothing: a chunk of them must not make the next one endless.
        most = chunk / max(seconds, 1e-6) * min(SETTINGS.chunk_s, max(self.state.left(), 0.01))
        self.chunks[rebuilding] = min(2 * chunk, max(1 if rebuilding else 10, int(most)))
        return seconds

    def _free_workers(self) -> int:
        """Workers for annealing: the proof has one of them while it lasts."""
        if self.state.clock.counted:
            return 1
        return max(1, self.options.workers - (0 if self.state.proved.is_set() else 1))

    def _settled(self, before: float, seconds: float) -> bool:
        """Whether a cycle that began with the best plan at `before` says that more time will not help."""
        settled_gap = SETTINGS.settled_gap_swapping if self.swaps else SETTINGS.settled_gap
        if self.options.gap is not None or seconds < SETTINGS.settled_s or self.state.gap() > settled_gap:
            return False
        return before - self.best_ns <= SETTINGS.settled_gain * self.base

    def _report(self) -> None:
        best, bound = self.state.best_ns, self.state.bound_ns
        self.options.on_progress(Progress(self.state.elapsed(), None if best == inf else int(best), bound))

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
