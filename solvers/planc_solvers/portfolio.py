"""The two halves of the planner side by side: bounds in one thread, plans in the other, under one time limit."""

import threading
import time
from collections.abc import Iterable
from math import inf

from planc.compiled.cache import is_cached
from planc.problem.bounds import minimum_budget
from planc.problem.problem import Problem
from planc.schedule.schedule import Schedule
from planc.schedule.solver import SolveOptions
from planc.units import format_bytes
from planc_solvers.bounds.decode import give_up_all
from planc_solvers.bounds.prover import Prover
from planc_solvers.evaluation.arrays import UNLIMITED
from planc_solvers.evaluation.evaluate import evaluate
from planc_solvers.evaluation.plan_copies import copied
from planc_solvers.evaluation.reduction import reduced, reduced_arrays
from planc_solvers.evaluation.schedule_conversion import plan_of, schedule_of
from planc_solvers.ready import CLOCK
from planc_solvers.search.annealing import anneal, ready_search
from planc_solvers.search.improver import CHUNK_S, Improver
from planc_solvers.search.mend import mend
from planc_solvers.solve_state import PROOF_SHARE, SolveState

PATIENCE_S = 2.0
"""Time that the proof gets before the search is compiled, which takes several times that."""

PROOF_ROUNDS, PROOF_NODES = 12, 100
"""Coarse models that one worker solves before it searches, and nodes of the one with integers."""


class Portfolio:
    """One solve of one problem; the first of all on a machine also compiles, while its clock stands still."""

    def __init__(self, problem: Problem, options: SolveOptions) -> None:
        self.problem, self.options, self.small = problem, options, reduced(problem)
        self.arrays = reduced_arrays(problem, self.small)
        self.standing = SolveState(problem.least_duration_ns, options.time_limit_s, options.patience_s)
        self.searcher = Improver(self.arrays, options, self.standing)
        self.proving = threading.Thread(target=self.prove)
        self.failure: Exception | None = None
        self.standing.begin()

    def propose(self, schedules: Iterable[Schedule]) -> None:
        """Let the search consider what these schedules decide."""
        proposals = self.searcher.proposals
        for schedule in schedules:
            plan = plan_of(self.small, self.arrays, schedule)
            if plan is not None:
                proposals.append(plan)
                mended = copied(self.arrays, plan)
                if self.searcher.swaps and mend(self.arrays, mended, self.searcher.scratch):
                    proposals.append(mended)

    @property
    def schedule(self) -> Schedule | None:
        """The best schedule so far; None before the first."""
        searcher = self.searcher
        if searcher.best_ns == inf:
            return None
        evaluate(self.arrays, searcher.search.best, searcher.scratch)
        return schedule_of(self.problem, searcher.search.best, searcher.scratch)

    @property
    def best_ns(self) -> int:
        """Step time of the best plan; a very long time before the first."""
        best = self.searcher.best_ns
        return round(best) if best < inf else UNLIMITED

    @property
    def bound_ns(self) -> int:
        """The best bound proved so far."""
        return self.standing.bound_ns

    @property
    def infeasible(self) -> bool:
        """Whether it is proved that there is no schedule; a plan that was found all the same has the last word."""
        return self.standing.infeasible and self.searcher.best_ns == inf

    def run(self) -> None:
        """Search until finished. Raises what the proving half raised."""
        if self.searcher.swaps:
            self.searcher.proposals.append(give_up_all(self.small, self.arrays, lambda _: True))
        self.proving.start()
        if self.options.workers == 1:
            self.proving.join()
        self.searcher.begin()
        self._await_proof()
        self.searcher.improve()
        self.standing.stop.set()
        # A model under way cannot be interrupted; it ends by its own time limit, which the interpreter awaits at exit.
        self.proving.join(timeout=CHUNK_S)
        if self.failure is not None:
            raise self.failure

    def prove(self) -> None:
        """Raise the bound and propose plans until finished."""
        single, standing = self.options.workers == 1, self.standing
        try:
            kept = self.options.time_limit_s * (1 - PROOF_SHARE) if single else 0.0
            nodes = PROOF_NODES if single else None
            prover = Prover(
                self.problem, self.small, self.arrays, lambda: standing.left() - kept, standing.finished, nodes
            )
            for solved, (bound, plans) in enumerate(prover.rounds()):
                standing.bound_ns = max(standing.bound_ns, bound)
                self.searcher.proposals.extend(plans)
                ready_search.idle.wait()  # a new model would slow down the compilation
                if standing.finished() or standing.left() <= kept or (single and solved + 1 >= PROOF_ROUNDS):
                    break
            standing.infeasible = prover.infeasible
        except Exception as failure:
            self.failure = failure
            standing.stop.set()
        finally:
            standing.proved.set()

    def _await_proof(self) -> None:
        """Where the search has yet to be compiled, give the proof a moment before: it often ends the solve."""
        if ready_search.done or self.options.workers == 1 or is_cached(anneal):
            return
        with CLOCK.stopped():
            ends = time.monotonic() + PATIENCE_S
            while time.monotonic() < ends and self.proving.is_alive() and not self.standing.finished():
                self.searcher.consider()
                time.sleep(CHUNK_S / 2)

    def certificate(self) -> tuple[str, int, str, int]:
        """Message, smallest budget that is not excluded, layer that sets it, and budget, of an infeasibility proof."""
        need, name = minimum_budget(self.problem)
        host = self.problem.host_budget_bytes
        if host is not None and self.searcher.swaps:
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
