"""The two halves of the planner side by side: bounds in one thread, plans in the other, under one time limit."""

import threading
import time
from collections import deque
from collections.abc import Iterable
from math import inf
from typing import NamedTuple

from planc.problem.bounds import minimum_budget
from planc.problem.problem import Problem
from planc.schedule.schedule import Schedule
from planc.schedule.solver import OPTIMAL_GAP, Progress, SolveOptions
from planc.units import format_bytes
from planc_solvers.arrays import UNLIMITED, Plan, empty_plan
from planc_solvers.build import plan_of, schedule_of
from planc_solvers.choices import settle
from planc_solvers.compiled import is_cached
from planc_solvers.decode import give_up_all
from planc_solvers.evaluate import evaluate
from planc_solvers.greedy import greedy_plans, ready_greedy
from planc_solvers.mend import mend
from planc_solvers.prover import LARGE, Prover
from planc_solvers.ready import CLOCK
from planc_solvers.reduced import reduced, reduced_arrays
from planc_solvers.search import BEST, PRICE, SCORE, anneal, annealing, copied, copy_plan, ready_search, start
from planc_solvers.workspace import EXCESS, MAKESPAN, workspace

CHUNK_S = 0.1
"""Time between two looks at the clock and at the other half."""

PATIENCE_S = 2.0
"""Time that the proof gets before the search is compiled, which takes several times that."""

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

PROOF_ROUNDS, PROOF_NODES, PROOF_SHARE = 12, 100, 0.4
"""Coarse models that one worker solves before it searches, nodes of the one with integers, and share of the time."""


class Portfolio:
    """One solve of one problem; the first of all on a machine also compiles, while its clock stands still."""

    def __init__(self, problem: Problem, options: SolveOptions) -> None:
        self.problem, self.options, self.small = problem, options, reduced(problem)
        self.arrays = reduced_arrays(problem, self.small)
        self.base = max(problem.base_duration_ns, 1)
        self.bound_ns = problem.least_duration_ns
        self.infeasible = False
        self.failure: Exception | None = None
        self.proposals: deque[Plan] = deque([empty_plan(self.arrays)])
        self.scratch = workspace(self.arrays)
        self.search = annealing(self.arrays)
        self.forms = any(task.alternatives for task in problem.tasks)
        self.swaps = any(v.swappable for v in self.small.values)
        typical = 350 / len(problem.tasks)
        self.scale = self.base * (max(1.0, typical) if self.swaps else typical)
        self.cycles = SWAPPING if self.swaps else RECOMPUTING
        self.price = self.base * 0.02 / (max(self.arrays.budget, 1) * 0.01 * max(1.0, len(problem.tasks) / 50))
        self.chunks = {False: CHUNK, True: CHUNK // 20}
        self.starts: dict[int, Plan] = {}
        self.stop = threading.Event()
        self.proving = threading.Thread(target=self.prove)
        self.go_on = threading.Event()
        self.go_on.set()
        start(self.arrays, self.search, self.proposals[0], self.price)
        self.search.state[BEST] = inf
        self._settled_forms(empty_plan(self.arrays))
        self.started = CLOCK.now()

    def propose(self, schedules: Iterable[Schedule]) -> None:
        """Let the search consider what these schedules decide."""
        for schedule in schedules:
            plan = plan_of(self.small, self.arrays, schedule)
            if plan is not None:
                self.proposals.append(plan)
                mended = copied(self.arrays, plan)
                if self.swaps and mend(self.arrays, mended, self.scratch):
                    self.proposals.append(mended)

    @property
    def schedule(self) -> Schedule | None:
        """The best schedule so far; None before the first."""
        if self.search.state[BEST] == inf:
            return None
        evaluate(self.arrays, self.search.best, self.scratch)
        return schedule_of(self.problem, self.search.best, self.scratch)

    @property
    def best_ns(self) -> int:
        """Step time of the best plan; a very long time before the first."""
        best = float(self.search.state[BEST])
        return round(best) if best < inf else UNLIMITED

    def left(self) -> float:
        """Seconds until the time limit."""
        return self.options.time_limit_s - (CLOCK.now() - self.started)

    def gap(self) -> float:
        """Of the best plan; infinite before the first."""
        best = float(self.search.state[BEST])
        return (best - self.bound_ns) / best if best < inf else inf

    def finished(self) -> bool:
        """Whether the gap is closed, the problem proved infeasible, or the time over."""
        return self.gap() <= OPTIMAL_GAP or self.infeasible or self.left() <= 0 or self.stop.is_set()

    def run(self) -> None:
        """Search until finished. Raises what the proving half raised."""
        if self.swaps:
            self.proposals.append(give_up_all(self.small, self.arrays, lambda _: True))
        self.proving.start()
        if self.options.workers == 1:
            self.proving.join()
        self.improve()
        self.stop.set()
        # A model under way cannot be interrupted; it ends by its own time limit, which the interpreter awaits at exit.
        self.proving.join(timeout=CHUNK_S)
        if self.failure is not None:
            raise self.failure
        self.infeasible = self.infeasible and self.search.state[BEST] == inf

    def prove(self) -> None:
        """Raise the bound and propose plans until finished."""
        single = self.options.workers == 1
        try:
            kept = self.options.time_limit_s * (1 - PROOF_SHARE) if single else 0.0
            nodes = PROOF_NODES if single else None
            prover = Prover(self.problem, self.small, self.arrays, lambda: self.left() - kept, self.finished, nodes)
            for solved, (bound, plans) in enumerate(prover.rounds()):
                self.bound_ns = max(self.bound_ns, bound)
                self.proposals.extend(plans)
                self.go_on.wait()
                if self.finished() or self.left() <= kept or (single and solved + 1 >= PROOF_ROUNDS):
                    break
            self.infeasible = prover.infeasible
        except Exception as failure:
            self.failure = failure
            self.stop.set()

    def begin(self) -> None:
        """Propose greedy plans for a small share of the time."""
        if self.arrays.reads.size > LARGE:
            return
        ready_greedy()
        for family in range(FAMILIES):
            until = self.options.time_limit_s * (1 - GREEDY_SHARE * (family + 1) / FAMILIES)
            plans = greedy_plans(self.arrays, workspace(self.arrays), self.options.seed, family)
            for trial, plan in enumerate(plans, start=1):
                if plan is not None:
                    self.starts[family] = plan
                    self.proposals.append(plan)
                late = trial >= FIRST_TRIALS and self.left() < until
                if self.finished() or (trial >= GREEDY_TRIALS if self.options.workers == 1 else late):
                    break

    def improve(self) -> None:
        """Anneal in cycles, taking up proposals as they come."""
        self.begin()
        self._await_proof()
        begun, moves, done = self.left(), 0.0, 0.0
        counted = self._counted_moves()
        for index, cycle in enumerate(self.cycles):
            if cycle.family is not None and cycle.family not in self.starts:
                continue
            begin, before, since = done, float(self.search.state[BEST]), self.left()
            self._consider(self.price if index == 0 else float(self.search.state[PRICE]), restart=True)
            if cycle.family is not None:
                start(self.arrays, self.search, self.starts[cycle.family], self.price)
            spent, rebuilt = 0.0, 0.0
            while not self.finished() and done < cycle.end:
                hot, cold = self.scale * cycle.heat, self.base * cycle.cold
                heat = hot * (cold / hot) ** min(1.0, (done - begin) / (cycle.end - begin))
                rebuilding = rebuilt < cycle.rebuilding * spent
                cost = self._anneal(heat, moves, counted > 0, rebuilding)
                moves, spent, rebuilt = moves + cost, spent + cost, rebuilt + (cost if rebuilding else 0.0)
                done = moves / counted if counted else 1 - self.left() / max(begun, 1e-9)
                self._consider(float(self.search.state[PRICE]), restart=False)
                self._report()
            if self.finished() or self._settled(before, since - self.left()):
                return

    def _await_proof(self) -> None:
        """Where the search has yet to be compiled, give the proof a moment before: it often ends the solve."""
        if ready_search.done or self.options.workers == 1 or is_cached(anneal):
            return
        with CLOCK.stopped():
            ends = time.monotonic() + PATIENCE_S
            while time.monotonic() < ends and self.proving.is_alive() and not self.finished():
                self._consider(self.price, restart=False)
                time.sleep(CHUNK_S / 2)

    def _ready(self) -> None:
        """Compile or load the search; no new model is begun meanwhile, which would slow it."""
        if ready_search.done:
            return
        self.go_on.clear()
        try:
            ready_search()
        finally:
            self.go_on.set()

    def _counted_moves(self) -> int:
        """Moves of a solve with one worker, whatever the clock says; 0 for several, which go by the clock."""
        if self.options.workers > 1:
            return 0
        seconds = self.options.time_limit_s * (1 - PROOF_SHARE)
        return max(1000, int(seconds * ACCESSES_PER_S / (self.arrays.reads.size + 64)))

    def _anneal(self, heat: float, moves: float, counted: bool, rebuilding: bool) -> float:
        """Anneal for a while at that temperature; what it cost, in moves where they are `counted`, else in seconds."""
        self._ready()
        began = time.monotonic()
        seed = int(self.options.seed * 1_000_003 + moves * 997) % (1 << 32)
        dear = max(1, self.arrays.size.size // REBUILT_VALUES) if rebuilding else 1
        chunk = max(1, CHUNK // dear) if counted else self.chunks[rebuilding]
        pace = PACE if self.swaps or self.search.state[BEST] < inf else FIRST_PACE
        anneal(self.arrays, self.search, self.swaps, chunk, heat, heat, pace, seed, False, rebuilding)
        seconds = time.monotonic() - began
        # Moves that fail cost nothing: a chunk of them must not make the next one endless.
        most = chunk / max(seconds, 1e-6) * min(CHUNK_S, max(self.left(), 0.01))
        self.chunks[rebuilding] = min(2 * chunk, max(1 if rebuilding else 10, int(most)))
        return chunk * dear if counted else seconds

    def _settled(self, before: float, seconds: float) -> bool:
        """Whether a cycle that began with the best plan at `before` says that more time will not help."""
        if seconds < SETTLED_S or self.gap() > SETTLED_GAP[self.swaps]:
            return False
        return before - float(self.search.state[BEST]) <= SETTLED_GAIN * self.base

    def _report(self) -> None:
        best = float(self.search.state[BEST])
        elapsed = CLOCK.now() - self.started
        self.options.on_progress(Progress(elapsed, None if best == inf else int(best), self.bound_ns))

    def _consider(self, price: float, restart: bool) -> None:
        """Take up proposals: resume from the best where it beats the current plan; on a `restart` from the best known."""
        if not self.proposals and not restart:
            return
        candidates = [self.search.best] if restart and self.search.state[BEST] < inf else []
        while self.proposals:
            candidates.append(self._settled_forms(self.proposals.popleft()))
        target, chosen = inf if restart else float(self.search.state[SCORE]), None
        for plan in candidates:
            if not evaluate(self.arrays, plan, self.scratch):
                continue
            time_ns, excess = float(self.scratch.total[MAKESPAN]), float(self.scratch.total[EXCESS])
            if excess <= 0 and time_ns < self.search.state[BEST]:
                self.search.state[BEST] = time_ns
                copy_plan(plan, self.search.best)
            if (self.swaps or restart) and time_ns + price * excess < target:
                target, chosen = time_ns + price * excess, plan
        if chosen is not None:
            start(self.arrays, self.search, chosen, price)

    def _settled_forms(self, plan: Plan) -> Plan:
        """`plan` with every step in its fastest form that fits, where that makes a better plan of it."""
        if self.forms and evaluate(self.arrays, plan, self.scratch):
            settle(self.arrays, plan, self.scratch)
        return plan

    def certificate(self) -> tuple[str, int, str, int]:
        """Message, smallest budget that is not excluded, layer that sets it, and budget, of an infeasibility proof."""
        need, name = minimum_budget(self.problem)
        host = self.problem.host_budget_bytes
        if host is not None and self.swaps:
            message = (
                f"no schedule fits {format_bytes(self.problem.budget_bytes)} on the device with {format_bytes(host)} on "
                "the host: allow more host memory or raise the budget"
            )
            return message, need, name, self.problem.budget_bytes
        message = (
            f"no schedule fits {format_bytes(self.problem.budget_bytes)}: recomputation alone, with first executions "
            "in this order, cannot go that low "
            f"(layer {name!r} alone needs {format_bytes(need)}); allow swapping or raise the budget"
        )
        return message, need, name, self.problem.budget_bytes
