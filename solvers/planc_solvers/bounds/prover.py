"""The half of the planner that proves bounds, by coarse models of chosen critical tasks, and proposes decoded plans.

Every set of critical tasks gives a bound; which set gives the best is found by trying. More critical tasks are not
always better for the relaxation, because work may spread over more stages, and always slower.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf

import numpy as np

from planc.problem.problem import Problem
from planc_solvers.bounds.chain_rows import add_chain_rows
from planc_solvers.bounds.coarse_model import coarse_model
from planc_solvers.bounds.decode import decode
from planc_solvers.bounds.engine_rows import add_engine_rows
from planc_solvers.bounds.linear_model import Answer, Effort
from planc_solvers.bounds.merged_plans import MergedPlans
from planc_solvers.bounds.relaxation import Coarse
from planc_solvers.evaluation.arrays import Arrays, SearchPlan, empty_plan
from planc_solvers.evaluation.evaluate import evaluate
from planc_solvers.evaluation.workspace import EXCESS, MAKESPAN, Workspace, workspace
from planc_solvers.solve_state import SolveState

Round = tuple[int, list[SearchPlan]]
"""A proven bound (ns), and plans decoded from the model."""


@dataclass(frozen=True, slots=True)
class ProverSettings:
    """Which models are tried, and for how long. Shares are of the time that is left."""

    grid: int = 12
    """Single critical tasks tried along the stretch where keeping everything is over the budget."""
    thresholds: tuple[float, ...] = (0.3, 0.5, 0.9)
    """Fractions present below which decoding gives a value up."""
    slack: float = 2e-6
    """Relative error that the solver's tolerances leave in a bound."""
    relaxed_share: float = 0.9
    """For one relaxation: it is of no use unfinished."""
    chain_share: float = 0.2
    """For each relaxation of the rounds that look for chain rows."""
    integer_share: float = 0.25
    """For one model with integers."""
    quick_tasks: int = 2
    """Critical tasks up to which a recompute-only model is solved with integers at once …"""
    quick_share: float = 0.05
    """… for this share."""
    integer_tasks: int = 3
    """Critical tasks of the recompute-only model that is the first to be solved with integers when more tasks no longer
    help, at most …"""
    last_share: float = 0.4
    """… and the share for each of those then."""
    weak_gain: float = 5e-5
    """A task that raises the bound by less, relative to the time of all tasks, is weak."""
    most_weak: int = 3
    """After so many weak ones in a row no more are added."""
    free: float = 1e-9
    """Price of a memory row, relative to the step's time for the whole budget, below which it has none."""
    most_tasks: int = 16
    """Critical tasks of the largest model. Two more a round instead of one took three times as long for the same bound."""
    most_combined: int = 5
    """The same with swaps."""
    chain_rounds: int = 8
    """Relaxations solved to find the chain rows of one model, at most."""
    integer_sets: int = 3
    """Sets solved with integers at the end, with swaps."""
    counted_nodes: int = 100
    """Nodes of a search for integers where work is counted; then only for single critical tasks …"""
    counted_values: int = 2_000
    """… and problems of so many values: one node may take long, and nothing counts it before it is over."""


SETTINGS = ProverSettings()

LARGE = 20_000
"""Accesses from which on the whole relaxation takes so long that merged models go before it."""

HUGE = 100_000
"""Accesses from which on the whole relaxation would take minutes and gigabytes."""


class Prover:
    """Bounds of one problem, and plans of `small`, which is the problem `reduced` and has these `arrays`."""

    def __init__(self, problem: Problem, small: Problem, arrays: Arrays, state: SolveState) -> None:
        self.problem, self.small, self.arrays, self.state = problem, small, arrays, state
        self.base = max(problem.base_duration_ns, 1)
        self.swaps = any(value.swappable for value in problem.values)
        self.place: Workspace = workspace(arrays)
        self.infeasible = False
        self.last: SearchPlan | None = None
        keep = empty_plan(arrays)
        evaluate(arrays, keep, self.place)
        self.keep_memory = self.place.memory[: keep.length[0]].copy()
        self.best: dict[tuple[int, ...], float] = {}
        self.slack: set[int] = set()

    def rounds(self) -> Iterator[Round]:
        """Rounds until nothing is left to try."""
        peak = int(np.argmax(self.keep_memory))
        if self.swaps and self.arrays.reads.size > LARGE:
            merged = MergedPlans(coarse_model(self.problem, (peak,)), self.small, self.arrays, self.state)
            for bound, plans in merged.rounds():
                yield self._bound_ns(bound), plans
        if self.arrays.reads.size > HUGE:
            return
        yield from self._solve((peak,), integer=not self.swaps)
        if self.swaps:
            yield from self._scan()
            yield from self._grow()
        else:
            yield from self._violations((peak,))

    def _effort(self, share: float, integer: bool = False) -> Effort:
        state = self.state
        nodes = SETTINGS.counted_nodes if integer and state.clock.counted else None
        return Effort(state.proof_left() * share, nodes, state.clock, state.interrupter)

    def _stopped(self) -> bool:
        return self.infeasible or self.state.finished() or self.state.proof_left() <= 0

    def _solve(
        self, critical: tuple[int, ...], integer: bool, share: float = SETTINGS.integer_share
    ) -> Iterator[Round]:
        """Solve the model of these critical tasks, with integers or relaxed."""
        if self.state.clock.counted:
            integer = integer and len(critical) == 1 and len(self.problem.values) <= SETTINGS.counted_values
        coarse = coarse_model(self.problem, critical)
        if self.swaps:
            add_engine_rows(coarse)
        answer = self._strengthened(coarse) if not self.swaps and len(critical) > 1 else None
        if integer or answer is None:
            effort = self._effort(share if integer else SETTINGS.relaxed_share, integer)
            answer = coarse.model.solve(effort, relaxed=not integer)
        self.infeasible = self.infeasible or answer.infeasible
        self.best[critical] = max(self.best.get(critical, -inf), answer.bound)
        self.slack = _slack(coarse, answer)
        if not self.infeasible:
            yield self._bound_ns(answer.bound), self._decoded(coarse, answer)

    def _strengthened(self, coarse: Coarse) -> Answer:
        """Add the chain rows that the relaxation violates, round by round; the last answer that has a point."""
        answer = Answer(-inf, inf, None)
        for _ in range(SETTINGS.chain_rounds):
            relaxed = coarse.model.solve(self._effort(SETTINGS.chain_share), relaxed=True, staged=True)
            if relaxed.point is None:
                return relaxed if relaxed.infeasible else answer
            answer = relaxed
            if self._stopped() or not add_chain_rows(coarse, relaxed.point):
                break
        return answer

    def _bound_ns(self, bound: float) -> int:
        return int(bound * self.base * (1 - SETTINGS.slack)) if np.isfinite(bound) else 0

    def _decoded(self, coarse: Coarse, answer: Answer) -> list[SearchPlan]:
        """The best one or two decodings of the model's point."""
        if answer.point is None:
            return []
        self.last = decode(coarse, self.small, self.arrays, answer.point)
        scored: list[tuple[float, int, SearchPlan]] = []
        for i, threshold in enumerate(SETTINGS.thresholds):
            plan = decode(coarse, self.small, self.arrays, answer.point, threshold)
            if evaluate(self.arrays, plan, self.place):
                over = self.place.total[EXCESS] / max(self.arrays.budget, 1)
                scored.append((self.place.total[MAKESPAN] + over * self.base, i, plan))
        return [plan for _, _, plan in sorted(scored)[:2]]

    def _scan(self) -> Iterator[Round]:
        """Single critical tasks: a grid over the tight stretch, then halving steps around the best."""
        tight = np.flatnonzero(self.keep_memory > self.arrays.budget)
        if not tight.size:
            return
        done = np.cumsum(self.arrays.duration)[tight]
        for share in range(1, SETTINGS.grid):
            at = int(tight[np.searchsorted(done, done[0] + (done[-1] - done[0]) * share / SETTINGS.grid)])
            yield from self._try((at,))
        step = max(1, int(tight[-1] - tight[0]) // (2 * SETTINGS.grid))
        while step and not self._stopped():
            centre = max((k for k in self.best if len(k) == 1), key=self.best.__getitem__)[0]
            for at in (centre - step, centre + step):
                yield from self._try((int(np.clip(at, tight[0], tight[-1])),))
            step //= 2

    def _try(self, critical: tuple[int, ...]) -> Iterator[Round]:
        if critical not in self.best and not self._stopped():
            yield from self._solve(critical, integer=False)

    def _grow(self) -> Iterator[Round]:
        """Add the best single tasks to the best set while that helps; then the best set with integers."""
        singles = sorted((k for k in self.best if len(k) == 1), key=self.best.__getitem__, reverse=True)
        current: tuple[int, ...] = singles[0]
        for (task,) in singles[1:]:
            trial = tuple(sorted({*current, task}))
            yield from self._try(trial)
            if self.best.get(trial, -inf) > self.best[current] * (1 + SETTINGS.slack):
                current = trial
            if len(current) >= SETTINGS.most_combined:
                break
        for critical in sorted(self.best, key=self.best.__getitem__, reverse=True)[: SETTINGS.integer_sets]:
            if not self._stopped():
                yield from self._solve(critical, integer=True)

    def _violations(self, critical: tuple[int, ...]) -> Iterator[Round]:
        """Add the task at which the last decoded plan is most over the budget, while that helps; then integers.

        A task where the relaxation leaves memory free is taken out, once.
        """
        weak, dropped = 0, set[int]()
        while not self._stopped() and weak < SETTINGS.most_weak and len(critical) < SETTINGS.most_tasks:
            worst = self._worst(critical)
            if worst < 0:
                break
            slack = self.slack - dropped
            dropped |= slack
            before, critical = max(self.best.values()), tuple(sorted({*critical, worst} - slack))
            yield from self._solve(critical, integer=len(critical) <= SETTINGS.quick_tasks, share=SETTINGS.quick_share)
            weak = weak + 1 if max(self.best.values()) < before + SETTINGS.weak_gain else 0
        if self.state.clock.counted:
            return
        ranked = sorted(self.best, key=self.best.__getitem__, reverse=True)
        few = [chosen for chosen in ranked if 1 < len(chosen) <= SETTINGS.integer_tasks][:1]
        for chosen in dict.fromkeys(few + ranked):
            if not self._stopped():
                yield from self._solve(chosen, integer=True, share=SETTINGS.last_share)

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
    rows = zip(coarse.critical, coarse.memory_rows, strict=False)
    return {task for task, row in rows if abs(answer.duals[row]) < SETTINGS.free}
