"""Solve, pack, and repair where packing misses: the loop between schedules and addresses, under one time limit.

A schedule that fits the budget by its load may still not pack. What is tried, cheapest first:

1. the schedule as it is;
2. the same schedule with shorter copies (`planc.lowering.slack`), which costs next to no predicted time;
3. a new schedule of a problem in which the layers that lie over the capacity in the best packing need as many bytes
   more as they miss (the local form of AutoTM's repair, Hildebrand et al., ASPLOS 2020);
4. as a last resort a problem whose whole budget shrinks step by step;
5. and of the other schedules that the solver knew within the budget the fastest that packs, if it is faster than that.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from planc.clock import WALL, StoppableClock
from planc.compiler.trial import Trial, lowerings, variants
from planc.enums import Status
from planc.errors import InfeasibleBudgetError, InternalError, SolverTimeoutError
from planc.graph.graph import Graph
from planc.lowering.lower import Lowered
from planc.planning.build import PlanningProblem
from planc.problem.bounds import minimum_budget
from planc.problem.problem import Problem
from planc.schedule.schedule import Schedule
from planc.schedule.solver import (
    OPTIMAL_GAP,
    Candidate,
    Progress,
    Solution,
    SolveOptions,
    Solver,
    checked,
    solve,
)
from planc.units import format_bytes


@dataclass(frozen=True, slots=True)
class FitSettings:
    """How the time limit is shared, each share of the time that is then left, and what is given up at last."""

    first_share: float = 0.45
    """For the first solve; packing and repairs take the rest."""
    repair_share: float = 0.3
    """For the solve of each repair: several may be needed, and each begins from the schedule before it."""
    trial_share: float = 0.05
    """For the first packing of each variant, most of which fit at once or not at all."""
    pack_share: float = 0.6
    """For the packing of the best variant where none fitted: a schedule that packs spares a repair, …"""
    pack_s: float = 10.0
    """… but no packing gets more seconds than these."""
    least_s: float = 0.5
    """Shortest useful time of a solve: with less there is no repair."""
    least_pack_s: float = 0.2
    """Shortest useful time of a packing: greedy packings alone ignore the gaps in lifetimes."""
    above_load: float = 0.001
    """Part of its load by which a packing that fits may lie above it without being lowered, for half of the time left."""
    given_up: tuple[float, ...] = (0.05, 0.1, 0.25, 0.5, 1.0)
    """The last resort gives up these parts of what lies between the budget and the smallest one, one after the other:
    the first that packs costs the least time."""


SETTINGS = FitSettings()


@dataclass(frozen=True)
class Limits:
    """Bytes that the slab may take, bytes of the budget beside it, seconds for everything, the seed of the solver."""

    capacity: int
    beside: int
    time_limit_s: float
    seed: int = 0
    on_progress: Callable[[Progress], None] = field(default=lambda _: None)
    gap: float | None = None
    """The gap at which a solve may end; None leaves it to the solver."""
    clock: StoppableClock = WALL
    """By which the seconds are kept; one that counts work lets one worker solve."""


@dataclass
class PlanSearch:
    """One search for a schedule that packs. `repairs` counts the schedules that did not, even with shorter copies."""

    graph: Graph
    planning: PlanningProblem
    solver: Solver
    limits: Limits
    repairs: int = 0
    _deadline: float = 0.0

    def run(self) -> tuple[Solution, Lowered]:
        """A solution and its lowered form within the capacity.

        Raises InfeasibleBudgetError with the smallest budget (bytes) when a layer alone does not fit, or with one known
        to be enough when nothing packs; SolverTimeoutError when the first solve found no schedule.
        """
        self._deadline = self.limits.clock.now() + self.limits.time_limit_s
        problem = replace(self.planning.problem, budget_bytes=self.limits.capacity)
        try:
            first = self._solve(problem, self._left() * SETTINGS.first_share, patience_s=self._left())
        except InfeasibleBudgetError as error:
            raise self._too_small(error) from error
        found = self._lowest(self._fitting(problem, first))
        return bounded(found.solution, first), found.lowering.lowered(found.packing)

    def _lowest(self, found: Trial) -> Trial:
        """A packing that fits, lowered towards its load for a little longer: what is left over may serve others."""
        limit_s, load = min(SETTINGS.pack_s, self._left() / 2), found.packing.lower_bound
        if found.packing.height <= load * (1 + SETTINGS.above_load) or limit_s < SETTINGS.least_pack_s:
            return found
        return found.packed(load, limit_s, self.limits.clock)

    def _too_small(self, error: InfeasibleBudgetError) -> InfeasibleBudgetError:
        """`error` with the bytes beside the slab; what is enough is told by who knows a plan."""
        need, budget = error.minimum_budget_bytes + self.limits.beside, self.limits.capacity + self.limits.beside
        host, floor = self.planning.problem.host_budget_bytes, minimum_budget(self.planning.problem)[0]
        message = f"a budget of {format_bytes(budget)} is too small"
        if host is not None and error.minimum_budget_bytes <= self.limits.capacity:
            message = (
                f"no plan fits a budget of {format_bytes(budget)} with {format_bytes(host)} of host memory "
                "(allow more of either: --budget, --host-memory)"
            )
        elif error.minimum_budget_bytes > floor:
            message = f"{message}: {error}"
        return InfeasibleBudgetError(message, need, error.layer, budget)

    def _fitting(self, problem: Problem, solution: Solution) -> Trial:
        """Repair `solution` of `problem` until it packs."""
        best, first = self._packed(solution), solution
        while best.packing.height > self.limits.capacity:
            self.repairs += 1
            problem = self._narrowed(problem, best)
            try:
                start, limit_s = best.solution.schedule, self._left() * SETTINGS.repair_share
                again = self._solve(problem, limit_s, start) if self._left() > SETTINGS.least_s else None
            except (InfeasibleBudgetError, SolverTimeoutError):
                again = None
            if again is None:
                return self._last_resort(best, first)
            best = self._packed(again)
        return best

    def _left(self) -> float:
        return max(0.0, self._deadline - self.limits.clock.now())

    def _solve(
        self, problem: Problem, limit_s: float, start: Schedule | None = None, patience_s: float = 0.0
    ) -> Solution:
        limits = self.limits
        options = SolveOptions(
            limit_s,
            limits.seed,
            workers=1 if limits.clock.counted else 2,
            on_progress=limits.on_progress,
            start=start,
            patience_s=patience_s,
            gap=limits.gap,
            clock=limits.clock,
            one_form=True,
        )
        return solve(self.solver, problem, options)

    def _packed(self, solution: Solution) -> Trial:
        """The first variant of the solution that packs, else the one with the lowest packing after an exact search."""
        lowest: Trial | None = None
        for variant in self._variants(solution):
            for lowering in lowerings(self.graph, self.planning, variant):
                limit_s, clock = self._pack_s(SETTINGS.trial_share), self.limits.clock
                trial = Trial(variant, lowering, lowering.pack(self.limits.capacity, limit_s, clock=clock))
                if lowest is None or trial.packing.height < lowest.packing.height:
                    lowest = trial
                if lowest.packing.height <= self.limits.capacity:
                    return lowest
        if lowest is None:
            raise InternalError("a solution has no variant to pack")
        return lowest.packed(self.limits.capacity, self._pack_s(SETTINGS.pack_share), self.limits.clock)

    def _pack_s(self, share: float) -> float:
        return min(SETTINGS.pack_s, max(SETTINGS.least_pack_s, self._left() * share))

    def _variants(self, solution: Solution) -> Iterator[Solution]:
        """The solution and its variants; the leanest alone where no time is left."""
        found = variants(self.planning.problem, solution)
        yield from found if self._left() > 0 else [*found][-1:]

    def _narrowed(self, problem: Problem, found: Trial) -> Problem:
        """Every layer that some byte over the capacity lives through needs as many bytes more, as far as it can."""
        slots, capacity = found.lowering.slots, self.limits.capacity
        begin = np.array(slots.begin)
        over = np.zeros(len(slots.steps), np.int64)
        for buffer, offset in zip(found.lowering.buffers, found.packing.offsets, strict=True):
            excess = offset + buffer.size - capacity
            for start, stop in buffer.lifetimes if excess > 0 else ():
                steps = slice(np.searchsorted(begin, start, "right") - 1, np.searchsorted(begin, stop))
                np.maximum(over[steps], excess, out=over[steps])
        missing: dict[int, int] = {}
        for task, worst in zip(slots.steps, over.tolist(), strict=True):
            missing[task] = max(missing.get(task, 0), min(worst, problem.budget_bytes - problem.entry_bytes(task)))
        tasks = (replace(t, working_bytes=t.working_bytes + missing.get(i, 0)) for i, t in enumerate(problem.tasks))
        return replace(problem, tasks=tuple(tasks))

    def _last_resort(self, known: Trial, first: Solution) -> Trial:
        """The faster of what is found within smaller budgets, from the `known` schedule, which needs more, and of what the
        `first` solve knew besides. Raises InfeasibleBudgetError where nothing packs."""
        tried = [*self._smaller(known), *self._others(first)]
        packed = [trial for trial in tried if trial.packing.height <= self.limits.capacity]
        if packed:
            return min(packed, key=lambda trial: trial.solution.timeline.step_ns)
        capacity, beside = self.limits.capacity, self.limits.beside
        raise InfeasibleBudgetError(
            f"no packing within {format_bytes(capacity + beside)} was found in the time limit",
            min(trial.packing.height for trial in (known, *tried)) + beside,
            minimum_budget(self.planning.problem)[1],
            capacity + beside,
        )

    def _smaller(self, known: Trial) -> Iterator[Trial]:
        """Schedules within smaller and smaller budgets, until one packs or the time is over."""
        problem, capacity = self.planning.problem, self.limits.capacity
        room = capacity - minimum_budget(problem)[0]
        for part in SETTINGS.given_up:
            if self._left() <= 0:
                return
            try:
                smaller = replace(problem, budget_bytes=capacity - int(room * part))
                limit_s = min(SETTINGS.least_s, self._left())
                found = self._packed(self._solve(smaller, limit_s, known.solution.schedule))
            except (InfeasibleBudgetError, SolverTimeoutError):
                continue
            yield found
            if found.packing.height <= capacity:
                return

    def _others(self, first: Solution) -> Iterator[Trial]:
        """The other schedules of a solution, fastest first, until one packs."""
        problem = replace(self.planning.problem, budget_bytes=self.limits.capacity)
        for schedule in first.others:
            candidate = Candidate(schedule, first.lower_bound_ns, first.bound_scope)
            found = self._packed(checked(problem, candidate, SolveOptions(one_form=True)))
            yield found
            if found.packing.height <= self.limits.capacity:
                return


def bounded(solution: Solution, first: Solution) -> Solution:
    """`solution` with the bound of `first`: one that was proved for a narrowed problem says nothing of the original."""
    gap = max(0.0, 1 - first.lower_bound_ns / solution.timeline.step_ns) if solution.timeline.step_ns else 0.0
    status = Status.OPTIMAL if gap <= OPTIMAL_GAP else Status.FEASIBLE
    bound, scope = first.lower_bound_ns, first.bound_scope
    return replace(solution, lower_bound_ns=bound, bound_scope=scope, gap=gap, status=status)
