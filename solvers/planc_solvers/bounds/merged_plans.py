"""Plans of large problems from merged models, for slower and slower copies, at the largest part of the budgets that
fits."""

from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

from planc.problem.problem import Problem
from planc_solvers.bounds.decode import decode
from planc_solvers.bounds.linear_model import Effort
from planc_solvers.bounds.merged_model import Merger
from planc_solvers.bounds.relaxation import Coarse
from planc_solvers.evaluation.arrays import BATCH_POWER, Arrays, SearchPlan, empty_plan
from planc_solvers.evaluation.evaluate import evaluate
from planc_solvers.evaluation.workspace import EXCESS, MAKESPAN, ON_HOST, Workspace, workspace
from planc_solvers.moves.eviction import trail
from planc_solvers.moves.rebuild import rebuild
from planc_solvers.solve_state import SolveState


@dataclass(frozen=True, slots=True)
class MergedSettings:
    """Which merged models are tried."""

    rounds: int = 6
    """Rounds of colour refinement."""
    share: float = 0.3
    """Part of the time left for one model."""
    slowness: tuple[tuple[float, ...], ...] = ((1.25, 1.15, 1.1, 1.05, 1.02, 1.0), (1.35, 1.6))
    """How much longer copies are taken to last: a model that fills the link leaves no time for the copies that a plan
    cannot start at once. Each run is followed while plans become faster."""
    least_gain: float = 1e-6
    """Part of a step's time by which a plan must be faster for the next one of a run to be made."""
    margins: tuple[float, ...] = (1.0, 0.99, 0.98, 0.97, 0.96, 0.95, 0.93, 0.9, 0.85, 0.8)
    """Parts of the budgets at which models are tried while their plans do not fit."""
    batch_powers: tuple[int, ...] = (BATCH_POWER, 5, 6, 7, 8)
    """Batches of copies out (`SearchPlan.batch`) tried with each plan."""
    host_step: float = 0.998
    """Where a plan takes too much of the host, the next model has that much less, and a little less again: what a plan
    takes jumps up and down where a whole class of values is rounded anew."""
    largest_step: float = 0.98
    """But no less than this part."""
    repaired: float = 0.2
    """Part of its steps for which a plan may be over the budget to be repaired."""
    repair_weights: tuple[float, ...] = (1.0, 1.0, 0.1, 0.5)
    """The weights of the rule of evictions then."""


SETTINGS = MergedSettings()


class _Fitting(NamedTuple):
    """Of a merged model's plan that fits: its step time, and the part of the host's budget that the model had."""

    step_ns: float
    host: float


class MergedPlans:
    """Plans of `small`, which has these `arrays`, from the model `coarse` with like variables made equal."""

    def __init__(self, coarse: Coarse, small: Problem, arrays: Arrays, state: SolveState) -> None:
        self.merger, self.small, self.arrays, self.state = Merger(coarse, SETTINGS.rounds), small, arrays, state
        self.place: Workspace = workspace(arrays)
        self.trail, self.repair_s = trail(arrays), 0.0

    def rounds(self) -> Iterator[tuple[float, list[SearchPlan]]]:
        """Bounds, relative to the base duration and 0 where there is none, with plans.

        The model counts what lies on the host at its critical task, a plan all that is ever there.
        """
        margins, host = deque(SETTINGS.margins), 1.0
        whole = self.merger.solve(self._effort())
        if whole is not None:
            yield whole.bound, []
        for run in SETTINGS.slowness:
            fastest = inf
            for slowness in run:
                found = yield from self._fitting(margins, slowness, host)
                if found is None or found.step_ns > fastest * (1 - SETTINGS.least_gain):
                    break
                fastest, host = found.step_ns, found.host

    def _effort(self) -> Effort:
        return Effort(self.state.proof_left() * SETTINGS.share, None, self.state.clock, self.state.interrupter)

    def _stopped(self) -> bool:
        return self.state.finished() or self.state.proof_left() <= 0

    def _fitting(
        self, margins: deque[float], slowness: float, host: float
    ) -> Generator[tuple[float, list[SearchPlan]], None, "_Fitting | None"]:
        """Plans for such copies until one fits: its step time, and the part of the host for which it was made.

        Margins at which none fits are taken away. None where none is left, or time is over.
        """
        while margins and not self._stopped():
            found = self.merger.solve(self._effort(), margins[0], slowness, host)
            plan = None if found is None else decode(self.merger.coarse, self.small, self.arrays, found.point)
            valid = plan is not None and self._batched(plan)
            over = self.place.total[ON_HOST] / max(self.arrays.host_budget, 1) if valid else 0.0
            if plan is not None and valid:
                plan = self._repaired(plan) if over <= 1 else plan
                yield 0, [plan]
            if valid and self.place.total[EXCESS] <= 0:
                return _Fitting(float(self.place.total[MAKESPAN]), host)
            if over > 1:
                host *= max(SETTINGS.largest_step, SETTINGS.host_step / over)
            if over <= 1 or plan is None or self._peak(plan) > self.arrays.budget:
                margins.popleft()
        return None

    def _repaired(self, plan: SearchPlan) -> SearchPlan:
        """A plan over the budget for at most a part of its steps, with room made by the rule of greedy plans."""
        over, began = self.place.memory[: int(plan.length[0])] > self.arrays.budget, self.state.clock.now()
        if not over.any() or over.mean() > SETTINGS.repaired or self.state.proof_left() < self.repair_s:
            return plan
        self.trail.weights[:] = SETTINGS.repair_weights
        repaired = empty_plan(self.arrays)
        valid = rebuild(self.arrays, plan, repaired, self.trail, 0, 0) and self._batched(repaired)
        self.repair_s = self.state.clock.now() - began
        if valid:
            return repaired
        self._batched(plan)
        return plan

    def _peak(self, plan: SearchPlan) -> float:
        """Most bytes on the device in `plan`, which was evaluated last."""
        return float(self.place.memory[: int(plan.length[0])].max())

    def _batched(self, plan: SearchPlan) -> bool:
        """Let copies out start together in batches of the size that makes `plan` fastest; False when it is not valid."""
        found = list[tuple[float, int]]()
        for power in SETTINGS.batch_powers if self.arrays.boundary > 0 else SETTINGS.batch_powers[:1]:
            plan.batch[0] = power
            if not evaluate(self.arrays, plan, self.place):
                return False
            found.append((float(self.place.total[MAKESPAN]), power))
        plan.batch[0] = min(found)[1]
        return evaluate(self.arrays, plan, self.place)
