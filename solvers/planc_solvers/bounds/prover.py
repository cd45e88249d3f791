"""The half of the planner that proves bounds, by coarse models of chosen critical tasks, and proposes decoded plans.

Every set of critical tasks gives a bound; which set gives the best is found by trying. More critical tasks are not
always better for the relaxation, because work may spread over more stages, and always slower.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from math import inf
from typing import NamedTuple

import numpy as np

from planc.problem.problem import Problem
from planc_solvers.bounds.chain_rows import add_chain_rows
from planc_solvers.bounds.coarse_model import coarse_model
from planc_solvers.bounds.decode import decode
from planc_solvers.bounds.engine_rows import add_engine_rows
from planc_solvers.bounds.linear_model import Answer
from planc_solvers.bounds.merged_model import Merger
from planc_solvers.bounds.relaxation import Coarse
from planc_solvers.evaluation.arrays import BATCH_POWER, Arrays, SearchPlan, empty_plan
from planc_solvers.evaluation.evaluate import evaluate
from planc_solvers.evaluation.workspace import EXCESS, MAKESPAN, ON_HOST, Workspace, workspace
from planc_solvers.moves.eviction import trail
from planc_solvers.moves.rebuild import rebuild

GRID = 12
"""Single critical tasks tried along the stretch where keeping everything is over the budget."""

THRESHOLDS = (0.3, 0.5, 0.9)
"""Fractions present below which decoding gives a value up."""

SLACK = 2e-6
"""Relative error that the solver's tolerances leave in a bound."""

INTEGER_SHARE = 0.25
"""Part of the remaining time that one model with integers may take."""


QUICK_TASKS, QUICK_SHARE = 2, 0.05
"""Critical tasks up to which a recompute-only model is solved with integers at once, and the part of the remaining time for
that."""

INTEGER_TASKS, LAST_SHARE = 3, 0.4
"""Critical tasks of the recompute-only model that is the first to be solved with integers when more tasks no longer help,
at most, and the part of the remaining time that one of these models may take."""

WEAK_GAIN, MOST_WEAK = 5e-5, 3
"""A task that raises the bound by less, relative to the time of all tasks, is weak; after so many in a row no more are
added."""

FREE = 1e-9
"""Price of a memory row, relative to the step's time for the whole budget, below which it has none."""

LARGE = 20_000
"""Accesses from which on the whole relaxation takes so long that merged models go before it."""

SLOWNESS = ((1.25, 1.15, 1.1, 1.05, 1.02, 1.0), (1.35, 1.6))
"""How much longer copies are taken to last in the merged models of which plans are made: a model that fills the link
leaves no time for the copies that a plan cannot start at once. Each run is followed while plans become faster."""

LEAST_GAIN = 1e-6
"""Part of a step's time by which a plan must be faster for the next one of a run to be made."""

HUGE = 100_000
"""Accesses from which on the whole relaxation would take minutes and gigabytes."""

MARGINS = (0.99, 0.98, 0.97, 0.96, 0.95, 0.93, 0.9, 0.85, 0.8)
"""Parts of the budgets at which merged models are tried while their plans do not fit."""

BATCH_POWERS = (BATCH_POWER, 5, 6, 7, 8)
"""Batches of copies out (`Plan.batch`) tried with each plan of a merged model."""

HOST_STEP, LARGEST_STEP = 0.998, 0.98
"""Where a merged model's plan takes too much of the host, the next model has that much less, and a little less again, but
no less than the second of it: what a plan takes jumps up and down where a whole class of values is rounded anew."""

REPAIRED, REPAIR_WEIGHTS = 0.2, (1.0, 1.0, 0.1, 0.5)
"""Part of its steps for which a merged model's plan may be over the budget to be repaired, and the rule's weights then."""

MERGE_ROUNDS = 6
"""Rounds of refinement of merged models."""

MOST_TASKS = 16
"""Critical tasks of the largest model."""

CHAIN_ROUNDS = 8
"""Relaxations solved to find the chain rows of one model, at most."""


class _Fitting(NamedTuple):
    """Of a merged model's plan that fits: its step time, and the part of the host's budget that the model had."""

    step_ns: float
    host: float


class Prover:
    """Bounds of one problem, and plans of `small`, which is the problem `reduced` and has these `arrays`.

    `left` gives the seconds that remain, `stopped` says when to give up.
    """

    def __init__(
        self,
        problem: Problem,
        small: Problem,
        arrays: Arrays,
        left: Callable[[], float],
        stopped: Callable[[], bool],
        nodes: int | None = None,
    ) -> None:
        self.problem, self.small, self.arrays = problem, small, arrays
        self.left, self.stopped, self.nodes = left, stopped, nodes
        self.base = max(problem.base_duration_ns, 1)
        self.swaps = any(value.swappable for value in problem.values)
        self.place: Workspace = workspace(arrays)
        self.trail, self.repair_s = trail(arrays), 0.0
        self.infeasible = False
        self.last: SearchPlan | None = None
        keep = empty_plan(arrays)
        evaluate(arrays, keep, self.place)
        self.keep_memory = self.place.memory[: keep.length[0]].copy()
        self.best: dict[tuple[int, ...], float] = {}
        self.slack: set[int] = set()

    def rounds(self) -> Iterator[tuple[int, list[SearchPlan]]]:
        """Pairs of a proven bound (ns) and plans decoded from the model, until nothing is left to try."""
        peak = int(np.argmax(self.keep_memory))
        if self.swaps and self.arrays.reads.size > LARGE:
            yield from self._merged(peak)
        if self.arrays.reads.size > HUGE:
            return
        yield from self._solve((peak,), integer=not self.swaps)
        if self.swaps:
            yield from self._scan()
            yield from self._grow()
        else:
            yield from self._violations((peak,))

    def _solve(
        self, critical: tuple[int, ...], integer: bool, share: float = INTEGER_SHARE
    ) -> Iterator[tuple[int, list[SearchPlan]]]:
        integer = integer and (self.nodes is None or len(critical) == 1)
        coarse = coarse_model(self.problem, critical)
        if self.swaps:
            add_engine_rows(coarse)
        answer = self._strengthened(coarse) if not self.swaps and len(critical) > 1 else None
        if integer or answer is None:
            seconds = self.left() * (share if integer else 0.9)
            answer = coarse.model.solve(seconds, relaxed=not integer, nodes=self.nodes)
        self.infeasible = self.infeasible or answer.infeasible
        self.best[critical] = max(self.best.get(critical, -inf), answer.bound)
        self.slack = _slack(coarse, answer)
        if not self.infeasible:
            yield self._bound_ns(answer.bound), self._decoded(coarse, answer)

    def _strengthened(self, coarse: Coarse) -> Answer:
        """Add the chain rows that the relaxation violates, round by round; the last answer that has a point."""
        answer = Answer(-inf, inf, None)
        for _ in range(CHAIN_ROUNDS):
            relaxed = coarse.model.solve(self.left() * 0.2, relaxed=True, staged=True)
            if relaxed.point is None:
                return relaxed if relaxed.infeasible else answer
            answer = relaxed
            if self.stopped() or not add_chain_rows(coarse, relaxed.point):
                break
        return answer

    def _merged(self, peak: int) -> Iterator[tuple[int, list[SearchPlan]]]:
        """Plans of a large problem: for slower and slower copies, at the largest part of the budgets that fits.

        The model counts what lies on the host at its critical task, a plan all that is ever there.
        """
        merger, margins, host = Merger(coarse_model(self.problem, (peak,)), MERGE_ROUNDS), deque((1.0, *MARGINS)), 1.0
        whole = merger.solve(self.left() * 0.3)
        if whole is not None:
            yield self._bound_ns(whole.bound), []
        for run in SLOWNESS:
            fastest = inf
            for slowness in run:
                found = yield from self._fitting(merger, margins, slowness, host)
                if found is None or found.step_ns > fastest * (1 - LEAST_GAIN):
                    break
                fastest, host = found.step_ns, found.host

    def _fitting(
        self, merger: Merger, margins: deque[float], slowness: float, host: float
    ) -> Generator[tuple[int, list[SearchPlan]], None, "_Fitting | None"]:
        """Plans for such copies until one fits: its step time, and the part of the host for which it was made.

        Margins at which none fits are taken away. None where none is left, or time is over.
        """
        while margins and not self.stopped():
            found = merger.solve(self.left() * 0.3, margins[0], slowness, host)
            plan = None if found is None else decode(merger.coarse, self.small, self.arrays, found.point)
            valid = plan is not None and self._batched(plan)
            over = self.place.total[ON_HOST] / max(self.arrays.host_budget, 1) if valid else 0.0
            if plan is not None and valid:
                plan = self._repaired(plan) if over <= 1 else plan
                yield 0, [plan]
            if valid and self.place.total[EXCESS] <= 0:
                return _Fitting(float(self.place.total[MAKESPAN]), host)
            if over > 1:
                host *= max(LARGEST_STEP, HOST_STEP / over)
            if over <= 1 or plan is None or self._peak(plan) > self.arrays.budget:
                margins.popleft()
        return None

    def _repaired(self, plan: SearchPlan) -> SearchPlan:
        """A plan over the budget for at most a part of its steps, with room made by the rule of greedy plans."""
        over, began = self.place.memory[: int(plan.length[0])] > self.arrays.budget, time.monotonic()
        if not over.any() or over.mean() > REPAIRED or self.left() < self.repair_s:
            return plan
        self.trail.weights[:] = REPAIR_WEIGHTS
        repaired = empty_plan(self.arrays)
        valid = rebuild(self.arrays, plan, repaired, self.trail, 0, 0) and self._batched(repaired)
        self.repair_s = time.monotonic() - began
        if valid:
            return repaired
        self._batched(plan)
        return plan

    def _peak(self, plan: SearchPlan) -> float:
        """Most bytes on the device in `plan`, which was evaluated last."""
        return float(self.place.memory[: int(plan.length[0])].max())

    def _batched(self, plan: SearchPlan) -> bool:
        """Let copies out start together in batches of the size that makes `plan` fastest; False when it is not valid."""
        powers, found = BATCH_POWERS if self.arrays.boundary > 0 else BATCH_POWERS[:1], list[tuple[float, int]]()
        for power in powers:
            plan.batch[0] = power
            if not evaluate(self.arrays, plan, self.place):
                return False
            found.append((float(self.place.total[MAKESPAN]), power))
        plan.batch[0] = min(found)[1]
        return evaluate(self.arrays, plan, self.place)

    def _bound_ns(self, bound: float) -> int:
        return int(bound * self.base * (1 - SLACK)) if np.isfinite(bound) else 0

    def _decoded(self, coarse: Coarse, answer: Answer) -> list[SearchPlan]:
        """The best one or two decodings of the model's point."""
        if answer.point is None:
            return []
        self.last = decode(coarse, self.small, self.arrays, answer.point)
        scored: list[tuple[float, int, SearchPlan]] = []
        for i, threshold in enumerate(THRESHOLDS):
            plan = decode(coarse, self.small, self.arrays, answer.point, threshold)
            if evaluate(self.arrays, plan, self.place):
                over = self.place.total[EXCESS] / max(self.arrays.budget, 1)
                scored.append((self.place.total[MAKESPAN] + over * self.base, i, plan))
        return [plan for _, _, plan in sorted(scored)[:2]]

    def _scan(self) -> Iterator[tuple[int, list[SearchPlan]]]:
        """Single critical tasks: a grid over the tight stretch, then halving steps around the best."""
        tight = np.flatnonzero(self.keep_memory > self.arrays.budget)
        if not tight.size:
            return
        done = np.cumsum(self.arrays.duration)[tight]
        for share in range(1, GRID):
            at = int(tight[np.searchsorted(done, done[0] + (done[-1] - done[0]) * share / GRID)])
            yield from self._try((at,))
        step = max(1, int(tight[-1] - tight[0]) // (2 * GRID))
        while step and not self.stopped():
            centre = max((k for k in self.best if len(k) == 1), key=self.best.__getitem__)[0]
            for at in (centre - step, centre + step):
                yield from self._try((int(np.clip(at, tight[0], tight[-1])),))
            step //= 2

    def _try(self, critical: tuple[int, ...]) -> Iterator[tuple[int, list[SearchPlan]]]:
        if critical not in self.best and not self.stopped() and not self.infeasible:
            yield from self._solve(critical, integer=False)

    def _grow(self) -> Iterator[tuple[int, list[SearchPlan]]]:
        """Add the best single tasks to the best set while that helps; then the best set with integers."""
        singles = sorted((k for k in self.best if len(k) == 1), key=self.best.__getitem__, reverse=True)
        current: tuple[int, ...] = singles[0]
        for (task,) in singles[1:]:
            trial = tuple(sorted({*current, task}))
            yield from self._try(trial)
            if self.best.get(trial, -inf) > self.best[current] * (1 + SLACK):
                current = trial
            if len(current) >= 5:
                break
        for critical in sorted(self.best, key=self.best.__getitem__, reverse=True)[:3]:
            if not self.stopped():
                yield from self._solve(critical, integer=True)

    def _violations(self, critical: tuple[int, ...]) -> Iterator[tuple[int, list[SearchPlan]]]:
        """Add the task at which the last decoded plan is most over the budget, while that helps; then integers.

        A task where the relaxation leaves memory free is taken out, once.
        """
        weak, dropped = 0, set[int]()
        while not self.stopped() and not self.infeasible and weak < MOST_WEAK and len(critical) < MOST_TASKS:
            worst = self._worst(critical)
            if worst < 0:
                break
            slack = self.slack - dropped
            dropped |= slack
            before, critical = max(self.best.values()), tuple(sorted({*critical, worst} - slack))
            yield from self._solve(critical, integer=len(critical) <= QUICK_TASKS, share=QUICK_SHARE)
            weak = weak + 1 if max(self.best.values()) < before + WEAK_GAIN else 0
        if self.nodes is not None:
            return
        ranked = sorted(self.best, key=self.best.__getitem__, reverse=True)
        few = [chosen for chosen in ranked if 1 < len(chosen) <= INTEGER_TASKS][:1]
        for chosen in dict.fromkeys(few + ranked):
            if not self.stopped() and not self.infeasible:
                yield from self._solve(chosen, integer=True, share=LAST_SHARE)

    def _worst(self, critical: tuple[int, ...]) -> int:
        """The task outside `critical` most over the budget in the plan evaluated last; -1 when none is over."""
        plan = self.last
        if plan is None or not evaluate(self.arrays, plan, self.place):
            return -1
        length = int(plan.length[0])
        over = self.place.memory[:length] - self.arrays.budget
        first = {int(task): p for p, task in reversed(list(enumerate(plan.seq[:length])))}
        ranked = sorted((t for t in first if over[first[t]] > 0 and t not in critical), key=lambda t: -over[first[t]])
        return ranked[0] if ranked else -1


def _slack(coarse: Coarse, answer: Answer) -> set[int]:
    """Critical tasks whose memory rows have no price in a relaxation's optimum."""
    if answer.duals is None:
        return set()
    return {t for t, row in zip(coarse.critical, coarse.memory_rows, strict=False) if abs(answer.duals[row]) < FREE}
