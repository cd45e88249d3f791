"""Solve, pack, and repair where packing misses: the loop between schedules and addresses, under one time limit.

A schedule that fits the budget by its load may still not pack. What is tried, cheapest first:

1. the schedule as it is;
2. the same schedule with shorter copies (`planc.lowering.slack`), first where that costs next to no predicted time;
3. schedules within smaller budgets, until one packs, for somewhat more than the time limit if need be, with larger steps
   the less of it is left, and then closer and closer to the largest that does while time is left;
4. of the other schedules that are known within the budget those that are faster than that.

Each repair goes on from the schedule before it, so that it takes a moment to be nearly as fast. Where a schedule packs and
its solve was cut off, it is gone on from too, within the budget that it was made for, or somewhat less where what is found
does not pack, as long as that gains something and time is left.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import groupby

from planc.clock import WALL, StoppableClock
from planc.compiler.search_time import TIMES, SearchTime
from planc.compiler.trial import Trial, leanest, lowerings, variants
from planc.cores import cpu_threads
from planc.enums import Status
from planc.errors import InfeasibleBudgetError, InternalError, SolverTimeoutError
from planc.graph.graph import Graph
from planc.lowering.lower import Lowered
from planc.lowering.slack import CLOSE_PPM, LOOSE_PPM
from planc.planning.build import PlanningProblem
from planc.problem.bounds import minimum_budget
from planc.problem.problem import Problem
from planc.schedule.residency import memory_profile
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
    """How the time limit is shared, each share of the time that is then left, and how smaller budgets are tried."""

    first_share: float = 0.35
    """For the first solve; packing and repairs take the rest."""
    patience: float = 0.8
    """For a first solve that finds no schedule in that time."""
    repair_share: float = 0.25
    """For the solve of each repair: several may be needed, and each begins from the schedule before it."""
    further_share: float = 0.5
    """For the solve of each schedule that goes on from one which packs."""
    trial_share: float = 0.05
    """For the first packing of each variant, most of which fit at once or not at all."""
    pack_share: float = 0.25
    """For the packing of the best variant where none fitted: a schedule that packs spares a repair, but in no time does one
    pack whose gaps are many, …"""
    pack_s: float = 10.0
    """… and no packing gets more seconds than these."""
    above_load: float = 0.001
    """Part of its load by which a packing that fits may lie above it without being lowered, for half of the time left."""
    growth: float = 1.25
    """What the second budget gives up is so many times what the first did, at least, and so on: gaps may stay as many."""
    roomy: float = 0.9
    """Part of the capacity below which a schedule's peak leaves room for gaps between addresses."""
    close: float = 0.01
    """Part of the capacity by which the budgets may differ, in the end, whose schedules do and do not pack, …"""
    far: float = 0.05
    """… and by which they may where the time is over."""


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
    late_s: float | None = None
    """Seconds more for which something that packs is looked for; None for as many as a user's time limit lets be."""
    rescued: bool = False
    """Whether the least plan is made already: no time has to be left for that."""

    @property
    def overtime_s(self) -> float:
        """`late_s`, whoever set it."""
        return overtime_s(self.time_limit_s) if self.late_s is None else self.late_s


def overtime_s(time_limit_s: float) -> float:
    """Seconds after a user's time limit in which something that packs is still looked for."""
    return TIMES.overtime * time_limit_s + TIMES.overtime_s


@dataclass
class PlanSearch:
    """One search for a schedule that packs. `repairs` counts the schedules that did not, even with shorter copies."""

    graph: Graph
    planning: PlanningProblem
    solver: Solver
    limits: Limits
    start: Schedule | None = None
    """From which the first solve goes on; it proves no bound, as whoever found the start has one."""
    given_up: int = 0
    """Bytes of the capacity that schedules leave free so that they pack: for the first solve what a search before this one
    came to, and in the end what this one did."""
    repairs: int = 0
    _time: SearchTime = field(init=False)
    _cut_off: bool = False
    """Whether the last solve ended at its time limit."""
    _solves: int = 0
    """How many there were: each has a seed of its own, for one that goes on would else draw the same moves again."""

    def __post_init__(self) -> None:
        """The time begins with the search."""
        self._begin()

    def _begin(self) -> None:
        limits = self.limits
        self._time = SearchTime(
            limits.clock, limits.time_limit_s, limits.overtime_s, limits.rescued, len(self.graph.ops)
        )

    def run(self) -> tuple[Solution, Lowered]:
        """A solution and its lowered form within the capacity.

        Raises InfeasibleBudgetError with the smallest budget (bytes) when a layer alone does not fit, or with one known
        to be enough when nothing packs; SolverTimeoutError when the first solve found no schedule.
        """
        self._begin()
        limit_s, patience_s = (self._time.left() * share for share in (SETTINGS.first_share, SETTINGS.patience))
        try:
            first, budget = self._first(limit_s, patience_s)
        except InfeasibleBudgetError as error:
            raise self._too_small(error) from error
        found = self._lowest(self._faster(self._fitting(first, budget)))
        self.given_up = self.limits.capacity - found.budget
        return bounded(found.solution, first), found.lowering.lowered(found.packing)

    @property
    def unfinished(self) -> bool:
        """Whether the search ended for lack of time, and may find more."""
        return self._cut_off and self._time.late()

    def _first(self, limit_s: float, patience_s: float) -> tuple[Solution, int]:
        """The first solution, and the budget that it was looked for in: what schedules before it did not give up of the
        capacity, or, where there is time for one and the solver has it, less, so that it packs almost surely."""
        capacity, floor = self.limits.capacity, minimum_budget(self.planning.problem)[0]
        usual, roomy = (
            max(budget, min(capacity, floor)) for budget in (capacity - self.given_up, int(SETTINGS.roomy * capacity))
        )
        if self._time.tries() == 1 and not self.limits.clock.counted and roomy < usual:
            with suppress(InfeasibleBudgetError):  # the usual budget may be enough
                return self._solve(roomy, limit_s, self.start, patience_s, prove=False), roomy
        return self._solve(usual, limit_s, self.start, patience_s, prove=self.start is None), usual

    def _lowest(self, found: Trial) -> Trial:
        """A packing that fits, lowered towards its load for a little longer: what is left over may serve others."""
        limit_s, load = min(SETTINGS.pack_s, self._time.left() / 2), found.packing.lower_bound
        if found.packing.height <= load * (1 + SETTINGS.above_load) or limit_s < self._time.least(TIMES.least_pack_s):
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

    def _fitting(self, first: Solution, budget: int) -> Trial:
        """The `first` solution, found within `budget` bytes, where it packs, else the fastest schedule found that does.

        Raises InfeasibleBudgetError where nothing packs.
        """
        tried = [self._packed_within(budget, first)]
        if self._fits(tried[0]):
            return tried[0]
        tried += self._smaller(tried[0])
        tried += self._others(first, min((_step_ns(trial) for trial in tried if self._fits(trial)), default=None))
        if fitting := [trial for trial in tried if self._fits(trial)]:
            return min(fitting, key=_step_ns)
        capacity, beside = self.limits.capacity, self.limits.beside
        raise InfeasibleBudgetError(
            f"no packing within {format_bytes(capacity + beside)} was found in the time limit; allow more time",
            min(trial.packing.height for trial in tried) + beside,
            minimum_budget(self.planning.problem)[1],
            capacity + beside,
        )

    def _faster(self, best: Trial) -> Trial:
        """What going on from the `best` schedule finds while that gains something and time is left."""
        known, budget = best, best.budget
        while self._cut_off and not self._time.late():
            again = self._repair(budget, known, SETTINGS.further_share)
            if again is None or _step_ns(again) >= _step_ns(best):
                break
            known = again
            if self._fits(again):
                best = again
            else:
                budget = min(budget, again.solution.peak_bytes) - int(SETTINGS.close * self.limits.capacity)
        return best

    def _fits(self, trial: Trial) -> bool:
        return trial.packing.height <= self.limits.capacity

    def _repair(self, budget: int, before: Trial, share: float = SETTINGS.repair_share) -> Trial | None:
        """What becomes of a schedule within `budget` bytes, late as it may be; None where nothing does."""
        try:
            found = self._solve(budget, self._time.solve_s(share), before.solution.schedule, prove=False)
        except (InfeasibleBudgetError, SolverTimeoutError):
            return None
        return self._packed_within(budget, found)

    def _packed_within(self, budget: int, solution: Solution) -> Trial:
        """What becomes of a solution that was looked for within `budget` bytes."""
        began = self._time.now()
        trial = replace(self._packed(solution), budget=budget)
        self._time.packing_s = self._time.now() - began
        if self._fits(trial):
            self._time.packs()
        return trial

    def _problem(self, budget: int) -> Problem:
        return replace(self.planning.problem, budget_bytes=budget)

    def _solve(
        self, budget: int, limit_s: float, start: Schedule | None, patience_s: float = 0.0, prove: bool = True
    ) -> Solution:
        limits = self.limits
        options = SolveOptions(
            limit_s,
            limits.seed + self._solves,
            workers=1 if limits.clock.counted else max(2, cpu_threads()),
            on_progress=limits.on_progress,
            start=start,
            patience_s=patience_s,
            gap=limits.gap,
            prove=prove and self._time.for_proof(limit_s, len(self.planning.problem.tasks)),
            clock=limits.clock,
            one_form=True,
        )
        began, self._solves = limits.clock.now(), self._solves + 1
        found = solve(self.solver, self._problem(budget), options)
        self._cut_off = limits.clock.now() - began >= limit_s
        return found

    def _packed(self, solution: Solution) -> Trial:
        """The first variant of the solution that packs, else the one with the lowest packing after an exact search.

        Variants that cost something are packed when an exact search had no success with the others.
        """
        limit_ns = solution.timeline.step_ns * (1_000_000 + CLOSE_PPM) // 1_000_000
        lowest: Trial | None = None
        for _, group in groupby(self._variants(solution), lambda variant: variant.timeline.step_ns > limit_ns):
            trial = self._first_packed(group)
            if not self._fits(trial) and self._time.another_try():
                trial = trial.packed(self.limits.capacity, self._pack_s(SETTINGS.pack_share), self.limits.clock)
            if lowest is None or trial.packing.height < lowest.packing.height:
                lowest = trial
            if self._fits(lowest):
                return lowest
            if not self._time.another_try():
                break
        if lowest is None:
            raise InternalError("a solution has no variant to pack")
        self.repairs += 1
        return lowest

    def _first_packed(self, solutions: Iterable[Solution]) -> Trial:
        """The first of the variants that packs in a moment, else the one with the lowest packing."""
        tried = list[Trial]()
        for trial in self._trials(solutions):
            tried.append(trial)
            if self._fits(trial):
                return trial
            if not self._time.another_try():
                break
        return min(tried, key=lambda trial: trial.packing.height)

    def _trials(self, solutions: Iterable[Solution]) -> Iterator[Trial]:
        """Each of the variants in each of its lowerings, packed in a moment."""
        for solution in solutions:
            began = self._time.now()
            for lowering in lowerings(self.graph, self.planning, solution):
                limit_s, clock = self._pack_s(SETTINGS.trial_share), self.limits.clock
                trial = Trial(solution, lowering, lowering.pack(self.limits.capacity, limit_s, clock=clock))
                self._time.tried(self._time.now() - began, 0.0 if self._fits(trial) else limit_s)
                yield trial
                began = self._time.now()

    def _pack_s(self, share: float) -> float:
        return min(SETTINGS.pack_s, self._time.pack_s(share))

    def _variants(self, solution: Solution) -> Iterator[Solution]:
        """The solution and its variants; where no time is left the leanest alone, or the solution if that leaves room."""
        if self._time.left() > 0:
            yield from variants(self.planning.problem, solution, LOOSE_PPM)
        elif solution.peak_bytes <= SETTINGS.roomy * self.limits.capacity:
            yield solution
        else:
            yield leanest(self.planning.problem, solution, LOOSE_PPM)

    def _smaller(self, known: Trial) -> Iterator[Trial]:
        """Schedules within smaller budgets: less and less until one packs, then between the budgets that do and do not.

        Goes on from the `known` schedule, which does not, and in overtime until little is given up for nothing.
        """
        capacity, floor = self.limits.capacity, minimum_budget(self.planning.problem)[0]
        # A schedule of `above` bytes did not pack; one of `below` did, or there is none.
        above, below, less = known.budget, floor - 1, 0
        while above - below > capacity * (SETTINGS.far if self._fits(known) and self._time.late() else SETTINGS.close):
            if self._time.over():
                return
            if below < floor:
                missed = above * (known.packing.height - capacity) // known.packing.height
                hurried = (above - floor) // self._time.tries() ** 2
                less = max(missed, int(SETTINGS.growth * less), int(SETTINGS.close * capacity), hurried)
                budget = max(floor, above - less)
            else:
                budget = (above + below) // 2
            found = self._repair(budget, known)
            if found is None:
                below = budget
                continue
            yield found
            if self._fits(found):
                below, known = budget, found
            else:
                above = min(budget, found.solution.peak_bytes)
                known = known if self._fits(known) else found

    def _others(self, first: Solution, limit_ns: int | None) -> Iterator[Trial]:
        """The start and the other schedules of the `first` solution, those that take less than `limit_ns`, fastest first,
        until one packs."""
        problem = self._problem(self.limits.capacity)
        known = first.others if self.start is None else (*first.others, self.start)
        within = [schedule for schedule in known if max(memory_profile(problem, schedule)) <= problem.budget_bytes]
        candidates = [Candidate(schedule, first.lower_bound_ns, first.bound_scope) for schedule in within]
        others = [checked(problem, candidate, SolveOptions(one_form=True)) for candidate in candidates]
        for other in sorted(others, key=lambda solution: solution.timeline.step_ns):
            if self._time.over() or (limit_ns is not None and other.timeline.step_ns >= limit_ns):
                return
            yield (found := self._packed_within(problem.budget_bytes, other))
            if self._fits(found):
                return


def _step_ns(trial: Trial) -> int:
    return trial.solution.timeline.step_ns


def bounded(solution: Solution, first: Solution) -> Solution:
    """`solution` with the bound of `first`: one that was proved for a narrowed problem says nothing of the original."""
    gap = max(0.0, 1 - first.lower_bound_ns / solution.timeline.step_ns) if solution.timeline.step_ns else 0.0
    status = Status.OPTIMAL if gap <= OPTIMAL_GAP else Status.FEASIBLE
    bound, scope = first.lower_bound_ns, first.bound_scope
    return replace(solution, lower_bound_ns=bound, bound_scope=scope, gap=gap, status=status)
