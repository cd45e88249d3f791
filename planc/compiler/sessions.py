"""Plans whose sessions, too, fit the budget.

On CUDA every distinct segment needs a session, and every session takes device memory beside the slab (library handles
and kernels, `DeviceInfo.session_bytes`). How many there are is known only when a plan is made, so plans are made until
one fits: the first with room for one session, or for as many as a hundredth of the budget holds; the next with room for
those of the first; the third, as a plan with less memory may have more segments, with room for a quarter more than the
second has; the last without copies, which needs one session. Each goes on from the schedule before it, in a budget that
packs as that one's did, and so does one more where a plan fits before its search is finished. Devices whose sessions take
nothing need one search.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from planc.compiler.fit import Limits, PlanSearch, bounded
from planc.compiler.least import least_trial
from planc.errors import InfeasibleBudgetError, SolverTimeoutError
from planc.importer.import_model import ImportedModel
from planc.importer.submodel import sub_model
from planc.lowering.lower import Lowered
from planc.plan.executed import executed
from planc.plan.residency_index import ResidencyIndex
from planc.planning.build import PlanningProblem
from planc.problem.bounds import minimum_budget
from planc.schedule.solver import Solution, Solver
from planc.units import format_bytes


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """The searches for a plan whose sessions fit, and the room that they keep."""

    searches: tuple[tuple[float, float], ...] = ((0.7, 1.0), (0.5, 1.25), (0.5, 1.0))
    """For each search that may copy, its part of the time that is then left, and how much room the next one keeps, as a
    multiple of the sessions of the plan found. The rest of the time is for a search without copies."""
    room_part: int = 100
    """The first search keeps a hundredth of the budget for sessions, or what one takes, if that is more. Room kept for
    nothing costs the plan as much memory; too little costs a search …"""
    most_sessions: int = 128
    """… but no more than these sessions take."""
    least_share: float = 0.1
    """Part of the time limit that must be left for going on from a plan that fits."""
    further_share: float = 0.67
    """Part of what is left for a search that goes on from a plan that fits."""
    late_share: float = 0.5
    """Part of what is left for other searches that one takes more than its time where nothing packs."""
    again_share: float = 0.25
    """Part of the time limit for going on from the least plan, where there is no other."""


SETTINGS = SessionSettings()


@dataclass(frozen=True)
class Found:
    """A solution and its lowered form, the bytes of its distinct sessions, and how often packing missed."""

    solution: Solution
    lowered: Lowered
    session_bytes: int
    repairs: int
    given_up: int = 0
    """Bytes of the slab's capacity that the search left free so that its schedules pack."""
    unfinished: bool = False
    """Whether the search ended for lack of time."""

    @property
    def need(self) -> int:
        """Bytes of slab and sessions."""
        return self.lowered.slab_bytes + self.session_bytes


def _step_ns(found: Found) -> int:
    return found.solution.timeline.step_ns


def distinct_sessions(imported: ImportedModel, lowered: Lowered) -> int:
    """Number of sessions that the segments need: segments of equal sub-models and forms share one, unless they
    draw random numbers."""
    residencies, runs = ResidencyIndex(lowered.residencies), lowered.runs
    parts = [part for part in executed(imported.graph, runs, lowered.segments, residencies) if not part.empty]
    segments = dict.fromkeys((runs[part.first].form, part.ops, part.placed) for part in parts)
    return len({(form, sub_model(imported, ops, placed).session_key) for form, ops, placed in segments})


def search_plan(
    imported: ImportedModel,
    planning: PlanningProblem,
    solver: Solver,
    limits: Limits,
    session_bytes: int,
    least: Callable[[], Found | None] | None = None,
) -> Found:
    """A plan whose slab and sessions fit `limits.capacity`, each distinct session taking `session_bytes`.

    Where the search has none, and the `least` plan (by default `least_plan`) fits, that is the answer, or, where the search
    ended before its time, what going on from it finds. Else raises InfeasibleBudgetError with the budget that plan needs,
    which is feasible whenever it is tried, and SolverTimeoutError as PlanSearch does.
    """
    search, ends = _Search(imported, planning, solver, limits, session_bytes), limits.clock.now() + limits.time_limit_s
    try:
        return search.fastest()
    except (InfeasibleBudgetError, SolverTimeoutError) as error:
        if limits.overtime_s <= 0 and not limits.rescued:
            raise  # nobody waits for the least plan
        known = least_plan(imported, planning, solver, session_bytes) if least is None else least()
        if known is not None and known.need <= limits.capacity:
            left = ends - limits.clock.now()
            return search.going_on(known, left) if left >= 0 else known
        if known is None or isinstance(error, SolverTimeoutError):
            raise
        raise _too_small(planning, limits, known.need, error) from error


def least_plan(imported: ImportedModel, planning: PlanningProblem, solver: Solver, session_bytes: int) -> Found | None:
    """The plan that needs the least of those known (`planc.compiler.least`); None where there is none.

    Where sessions take memory, a plan without copies, which needs one session, may need less.
    """
    found = list[Found]()
    for each in (planning, _resident(planning)) if session_bytes else (planning,):
        trial = least_trial(imported.graph, each, solver)
        if trial is not None:
            lowered = trial.lowering.lowered(trial.packing)
            sessions = distinct_sessions(imported, lowered) if session_bytes else 0
            found.append(Found(trial.solution, lowered, sessions * session_bytes, 0))
    return min(found, key=lambda plan: plan.need, default=None)


def _too_small(
    planning: PlanningProblem, limits: Limits, need: int, error: InfeasibleBudgetError
) -> InfeasibleBudgetError:
    """`error`, naming the budget with which there is a plan, that needs `need` bytes of the capacity."""
    enough, floor = need + limits.beside, minimum_budget(planning.problem)[0]
    size = f"{enough} bytes ({format_bytes(enough)})"
    # Below the floor no policy has a plan; above, another one may.
    says = (
        f"the smallest feasible one is {size}, set by layer {error.layer!r}"
        if limits.capacity < floor
        else (f"{size} are enough")
    )
    return InfeasibleBudgetError(f"{error}: {says}", enough, error.layer, limits.capacity + limits.beside)


@dataclass
class _Search:
    imported: ImportedModel
    planning: PlanningProblem
    solver: Solver
    limits: Limits
    session_bytes: int

    def fastest(self, before: Found | None = None) -> Found:
        """The plan found, gone on from one `before`. Raises what PlanSearch does, and where sessions do not fit."""
        if self.session_bytes:
            return self.rounds(before)
        return self.once(self.planning, 0, self.limits.time_limit_s, self.limits.overtime_s, before)

    def going_on(self, known: Found, left: float) -> Found:
        """The faster of a `known` plan and of what is found from it in a part of the time limit, `left` at most."""
        seconds = min(left, SETTINGS.again_share * self.limits.time_limit_s)
        limits = replace(self.limits, time_limit_s=seconds, late_s=0.0, rescued=True)
        try:
            found = replace(self, limits=limits).fastest(known)
        except (InfeasibleBudgetError, SolverTimeoutError):
            return known
        return min(known, found, key=_step_ns)

    def once(
        self, planning: PlanningProblem, reserve: int, seconds: float, late_s: float, before: Found | None = None
    ) -> Found:
        """One search for so many `seconds`, `late_s` more where nothing packs, with `reserve` bytes kept free for sessions,
        gone on from a plan `before`, with less kept free, whose bound then holds."""
        start = None if before is None else before.solution.schedule
        capacity, beside = self.limits.capacity - reserve, self.limits.beside + reserve
        kept = replace(self.limits, capacity=capacity, beside=beside, time_limit_s=seconds, late_s=late_s)
        given_up = 0 if before is None else before.given_up
        search = PlanSearch(self.imported.graph, planning, self.solver, kept, start, given_up)
        solution, lowered = search.run()
        solution = solution if before is None else bounded(solution, before.solution)
        sessions = distinct_sessions(self.imported, lowered) if self.session_bytes else 0
        session_bytes = sessions * self.session_bytes
        return Found(solution, lowered, session_bytes, search.repairs, search.given_up, search.unfinished)

    def rounds(self, before: Found | None = None) -> Found:
        """The fastest plan that fits. Raises InfeasibleBudgetError where none does."""
        clock, one = self.limits.clock, self.session_bytes
        ends = clock.now() + self.limits.time_limit_s
        room = max(one, min(self.limits.capacity // SETTINGS.room_part, SETTINGS.most_sessions * one) // one * one)
        found = list[Found]()
        for share, margin in SETTINGS.searches:
            left, fits = ends - clock.now(), any(map(self._fits, found))
            if fits and left < SETTINGS.least_share * self.limits.time_limit_s:
                break
            seconds = max(0.0, left * (SETTINGS.further_share if fits else share))
            # Beside a plan that fits none is late.
            late_s = 0.0 if fits else SETTINGS.late_share * (left + self.limits.overtime_s - seconds)
            new = list(self._tried(self.planning, room, seconds, max(0.0, late_s), before))
            found += new
            if not new or (self._fits(new[0]) and not new[0].unfinished):
                break
            room = room if self._fits(new[0]) else int(margin * new[0].session_bytes)
            before = new[0]
        if found and not any(map(self._fits, found)):
            left = ends - clock.now()
            late_s = self.limits.overtime_s + min(0.0, left)
            found += self._tried(_resident(self.planning), one, max(0.0, left), max(0.0, late_s))
        if fitting := [plan for plan in found if self._fits(plan)]:
            return min(fitting, key=_step_ns)
        raise InfeasibleBudgetError(
            f"no plan was found whose sessions fit beside its slab, each taking {format_bytes(one)}",
            min((plan.need for plan in found), default=one),
            "the step's sessions",
            self.limits.capacity,
        )

    def _tried(
        self, planning: PlanningProblem, reserve: int, seconds: float, late_s: float, before: Found | None = None
    ) -> Iterator[Found]:
        try:
            yield self.once(planning, reserve, seconds, late_s, before)
        except (InfeasibleBudgetError, SolverTimeoutError):
            return

    def _fits(self, found: Found) -> bool:
        return found.need <= self.limits.capacity


def _resident(planning: PlanningProblem) -> PlanningProblem:
    """The same without swaps, so that the whole step is one segment."""
    values = tuple(replace(value, swappable=False) for value in planning.problem.values)
    return replace(planning, problem=replace(planning.problem, values=values))
