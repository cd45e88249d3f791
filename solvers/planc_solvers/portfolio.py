"""The two halves of the planner side by side: bounds in one thread, plans in the other, under one time limit."""

import threading
import time
from collections.abc import Callable, Iterable
from math import inf

from planc.clock import WALL
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
from planc_solvers.evaluation.workspace import workspace
from planc_solvers.search.annealing import anneal, ready_search
from planc_solvers.search.improver import SETTINGS, Improver
from planc_solvers.search.mend import mend
from planc_solvers.solve_state import SolveState

SOON = 0.1
"""Part of the time limit within which plans from elsewhere are expected beside the first of the search."""

PATIENCE_S = 2.0
"""Time that the proof gets before the search is compiled, which takes several times that."""


class Portfolio:
    """One solve of one problem; the first of all on a machine also compiles, while its clock stands still."""

    def __init__(self, problem: Problem, options: SolveOptions) -> None:
        self.state = SolveState(problem.least_duration_ns, options)
        self.problem, self.options, self.small = problem, options, reduced(problem)
        self.arrays = reduced_arrays(problem, self.small)
        self.improver = Improver(self.arrays, options, self.state)
        self.proving = threading.Thread(target=self.prove, daemon=True)
        self.failure: Exception | None = None

    def propose(self, schedules: Iterable[Schedule]) -> None:
        """Let the search consider what these schedules decide; it may be under way in another thread."""
        proposals, scratch = self.improver.proposals, workspace(self.arrays)
        for schedule in schedules:
            plan = plan_of(self.small, self.arrays, schedule)
            if plan is not None:
                proposals.append(plan)
                mended = copied(self.arrays, plan)
                if self.improver.swaps and mend(self.arrays, mended, scratch):
                    proposals.append(mended)

    @property
    def resumed(self) -> bool:
        """Whether the search goes on from a start that was given: what was proposed with it has a plan that fits."""
        return self.improver.resumed()

    @property
    def schedule(self) -> Schedule | None:
        """The best schedule so far; None before the first."""
        improver = self.improver
        if improver.best_ns == inf:
            return None
        evaluate(self.arrays, improver.search.best, improver.scratch)
        return schedule_of(self.problem, improver.search.best, improver.scratch)

    @property
    def best_ns(self) -> int:
        """Step time of the best plan; a very long time before the first."""
        best = self.improver.best_ns
        return round(best) if best < inf else UNLIMITED

    @property
    def bound_ns(self) -> int:
        """The best bound proved so far."""
        return self.state.bound_ns

    @property
    def infeasible(self) -> bool:
        """Whether it is proved that there is no schedule; a plan that was found all the same has the last word."""
        return self.state.infeasible and self.improver.best_ns == inf

    def settled(self) -> bool:
        """Whether the gap is what was wanted, or the problem proved infeasible: more plans would change nothing."""
        return self.state.gap() <= self.state.gap_wanted or self.state.infeasible

    def run(self, ask: Callable[[], None] = lambda: None, ask_s: float = 0.0) -> None:
        """Search until finished. Raises what the proving half raised.

        `ask` brings plans from elsewhere (`propose`): beside the search, or between proof and search where work is counted.
        Where the `ask_s` seconds that it takes are many, it waits for the first plans: both want the interpreter's lock.
        """
        asking = threading.Thread(target=ask, daemon=True)
        late = not self.state.clock.counted and ask_s >= SOON * self.options.time_limit_s
        if self.improver.swaps:
            self.improver.proposals.append(give_up_all(self.small, self.arrays, lambda _: True))
        if self.options.prove:
            self.proving.start()
        else:
            self.state.proved.set()
        if self.state.clock.counted:  # one after the other, or what the search is proposed would depend on the threads
            if self.options.prove:
                self.proving.join()
            ask()
        elif not late:
            asking.start()
        self.improver.begin()
        if late:
            asking.start()
        self._await_proof()
        self.improver.improve()
        if asking.is_alive() and not self.settled():
            asking.join(timeout=max(0.0, self.state.patience_s - self.state.elapsed()))
        self.state.end()
        # HiGHS cannot be interrupted: a model of its ends by its own time limit, or with the process.
        if self.options.prove:
            self.proving.join(timeout=SETTINGS.chunk_s)
        if self.failure is not None:
            raise self.failure

    def prove(self) -> None:
        """Raise the bound and propose plans until finished."""
        try:
            prover = Prover(self.problem, self.small, self.arrays, self.state)
            for bound, plans in prover.rounds():
                self.state.bound_ns = max(self.state.bound_ns, bound)
                self.improver.proposals.extend(plans)
                ready_search.idle.wait()  # a new model would slow down the compilation
                if self.state.finished() or self.state.proof_left() <= 0:
                    break
            self.state.infeasible = prover.infeasible
        except Exception as failure:
            self.failure = failure
            self.state.end()
        finally:
            self.state.proved.set()

    def _await_proof(self) -> None:
        """Where the search has yet to be compiled, give the proof a moment before: it often ends the solve."""
        if ready_search.done or self.state.clock.counted or is_cached(anneal):
            return
        with WALL.stopped():
            ends = time.monotonic() + PATIENCE_S
            while time.monotonic() < ends and self.proving.is_alive() and not self.state.finished():
                self.improver.consider()
                time.sleep(SETTINGS.chunk_s / 2)

    def certificate(self) -> tuple[str, int, str, int]:
        """Message, smallest budget that is not excluded, layer that sets it, and budget, of an infeasibility proof."""
        need, name = minimum_budget(self.problem)
        host = self.problem.host_budget_bytes
        if host is not None and self.improver.swaps:
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
