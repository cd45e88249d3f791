"""Plans whose sessions, too, fit the budget.

On CUDA every distinct segment needs a session, and every session takes device memory beside the slab (library handles
and kernels, `DeviceInfo.session_bytes`). How many there are is known only when a plan is made, so plans are made until
one fits: the first with room for one session, or for as many as a hundredth of the budget holds; the next with room for
those of the first; the third, as a plan with less memory may have more segments, with room for a quarter more than the
second has; the last without copies, which needs one session. Devices whose sessions take nothing need one search.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from planc.compiler.fit import Limits, PlanSearch
from planc.errors import InfeasibleBudgetError, SolverTimeoutError
from planc.importer.import_model import ImportedModel
from planc.importer.submodel import sub_model
from planc.lowering.lower import Lowered
from planc.plan.executed import executed
from planc.plan.residency_index import ResidencyIndex
from planc.planning.build import PlanningProblem
from planc.schedule.solver import Solution, Solver
from planc.units import format_bytes

_SEARCHES = ((0.5, 1.0), (0.25, 1.25), (0.125, 1.0))
"""For each search that may copy, its part of the time limit, and how much room the next one keeps, as a multiple of the
sessions of the plan found. The rest of the time is for a search without copies."""

_ROOM, _MOST = 100, 128
"""The first search keeps room for at most a `_ROOM`th of the budget or `_MOST` sessions, where one takes less."""


@dataclass(frozen=True)
class Found:
    """A solution and its lowered form, the bytes of its distinct sessions, and how often packing missed."""

    solution: Solution
    lowered: Lowered
    session_bytes: int
    repairs: int


def distinct_sessions(imported: ImportedModel, lowered: Lowered) -> int:
    """Number of sessions that the segments need: segments of equal sub-models and forms share one, unless they
    draw random numbers."""
    residencies, runs = ResidencyIndex(lowered.residencies), lowered.runs
    parts = [part for part in executed(imported.graph, runs, lowered.segments, residencies) if not part.empty]
    segments = dict.fromkeys((runs[part.first].form, part.ops, part.placed) for part in parts)
    return len({(form, sub_model(imported, ops, placed).session_key) for form, ops, placed in segments})


def search_plan(
    imported: ImportedModel, planning: PlanningProblem, solver: Solver, limits: Limits, session_bytes: int
) -> Found:
    """A plan whose slab and sessions fit `limits.capacity`, each distinct session taking `session_bytes`.

    Raises InfeasibleBudgetError and SolverTimeoutError as PlanSearch does, and InfeasibleBudgetError, with a budget
    that is enough, where only the sessions do not fit.
    """
    search = _Search(imported, planning, solver, limits, session_bytes)
    if not session_bytes:
        return search.once(planning, 0, limits.time_limit_s)
    return search.rounds()


@dataclass
class _Search:
    imported: ImportedModel
    planning: PlanningProblem
    solver: Solver
    limits: Limits
    session_bytes: int

    def once(self, planning: PlanningProblem, reserve: int, seconds: float) -> Found:
        """One search with `reserve` bytes kept free for sessions."""
        limits = self.limits
        kept = replace(limits, capacity=limits.capacity - reserve, beside=limits.beside + reserve, time_limit_s=seconds)
        search = PlanSearch(self.imported.graph, planning, self.solver, kept)
        solution, lowered = search.run()
        sessions = distinct_sessions(self.imported, lowered) if self.session_bytes else 0
        return Found(solution, lowered, sessions * self.session_bytes, search.repairs)

    def rounds(self) -> Found:
        """The first plan that fits; else the least that one of those found needs is told."""
        seconds, one = self.limits.time_limit_s, self.session_bytes
        left = seconds * (1 - sum(share for share, _ in _SEARCHES))
        room = max(one, min(self.limits.capacity // _ROOM, _MOST * one) // one * one)
        found = list[Found]()
        for share, margin in _SEARCHES:
            new = list(self._tried(self.planning, room, seconds * share))
            found += new
            if not new or self._fits(new[0]):
                break
            room = int(margin * new[0].session_bytes)
        if found and not self._fits(found[-1]):
            found += self._tried(_resident(self.planning), one, left)
        for candidate in found:
            if self._fits(candidate):
                return candidate
        found.append(self._roomy(left))
        raise self._too_small(min(map(self._need, found)))

    def _roomy(self, seconds: float) -> Found:
        """A plan without copies that has as much memory as it wants."""
        limits = replace(self.limits, capacity=2 * self.planning.liveness_peak_bytes + self.session_bytes)
        return replace(self, limits=limits).once(_resident(self.planning), self.session_bytes, seconds)

    def _tried(self, planning: PlanningProblem, reserve: int, seconds: float) -> Iterator[Found]:
        try:
            yield self.once(planning, reserve, seconds)
        except (InfeasibleBudgetError, SolverTimeoutError):
            return

    @staticmethod
    def _need(found: Found) -> int:
        return found.lowered.slab_bytes + found.session_bytes

    def _fits(self, found: Found) -> bool:
        return self._need(found) <= self.limits.capacity

    def _too_small(self, need: int) -> InfeasibleBudgetError:
        enough, budget = need + self.limits.beside, self.limits.capacity + self.limits.beside
        return InfeasibleBudgetError(
            f"in a budget of {format_bytes(budget)} no plan was found whose sessions fit beside its slab, each taking "
            f"{format_bytes(self.session_bytes)}: {enough} bytes ({format_bytes(enough)}) are enough",
            enough,
            "the step's sessions",
            budget,
        )


def _resident(planning: PlanningProblem) -> PlanningProblem:
    """The same without swaps, so that the whole step is one segment."""
    values = tuple(replace(value, swappable=False) for value in planning.problem.values)
    return replace(planning, problem=replace(planning.problem, values=values))
