"""One mixed-integer model of a small problem through HiGHS and through CP-SAT, and both beside brute force."""

import random
from dataclasses import dataclass, replace

from planc.problem.bounds import minimum_budget
from planc.problem.problem import Problem
from planc.schedule.residency import memory_profile
from planc.schedule.schedule import Schedule
from planc_solvers.bounds.coarse_model import coarse_model
from planc_solvers.bounds.engine_rows import add_engine_rows
from support.oracle import best_recompute_only, best_with_swaps
from support.problems import random_dag, small_swap_problem, with_alternatives
from support.second_solver import in_whole_numbers, optimum_by_cp_sat

_TOLERANCE = 1e-6
"""Of HiGHS: relative to the step's time for the whole budget."""


@dataclass(frozen=True)
class Twice:
    """What two solvers and brute force say of a problem, in ns; None for a budget that nothing meets. `bound` is what HiGHS
    proves of the model as planc solves it, in which parts of values may be present."""

    highs: float | None
    cp_sat: float | None
    bound: float | None
    brute_force: int | None

    def met(self) -> bool:
        """Whether the model's optimum is that of brute force."""
        return self.cp_sat is not None and self.brute_force is not None and abs(self.cp_sat - self.brute_force) < 1e-6

    def fault(self) -> str | None:
        """What contradicts what."""
        if (self.highs is None) != (self.cp_sat is None):
            return f"one solver has no solution: {self}"
        if self.highs is None or self.cp_sat is None:
            return None if self.brute_force is None else f"neither has a solution, brute force has: {self}"
        scale = max(1.0, self.cp_sat) * 10 * _TOLERANCE
        if abs(self.highs - self.cp_sat) > scale:
            return f"two optima: {self}"
        if self.bound is None or self.bound > self.cp_sat + scale:
            return f"the bound is above the optimum: {self}"
        if self.brute_force is not None and self.cp_sat > self.brute_force + 0.5 + scale:  # simulated steps are rounded
            return f"the optimum is above that of brute force: {self}"
        return None


def budgeted(seed: int) -> Problem:
    """A small problem with a budget somewhere from just under the least to what keeping everything takes."""
    kind, rng = seed % 3, random.Random(seed)
    problem = small_swap_problem(seed) if kind == 2 else random_dag(seed, 5 + seed % 3)
    if kind == 1:
        problem = with_alternatives(problem, seed)
    most = max(memory_profile(problem, Schedule(tuple(range(len(problem.tasks))))))
    least, _ = minimum_budget(problem)
    return replace(problem, budget_bytes=rng.randint(max(1, least - 1), max(least, most)))


def solved_twice(problem: Problem, seed: int) -> Twice:
    """Solve the coarse model of every task or of some, with a time row for every copy where values may be copied."""
    rng, tasks = random.Random(seed), range(len(problem.tasks))
    critical = tuple(tasks) if rng.random() < 0.5 else tuple(sorted(rng.sample(tasks, rng.randint(1, len(tasks)))))
    swaps = any(value.swappable for value in problem.values)
    coarse, base = coarse_model(problem, critical), max(problem.base_duration_ns, 1)
    if swaps:
        add_engine_rows(coarse)
    whole = in_whole_numbers(coarse)
    answer, parted = whole.model.solve(30.0, gap=0.0), coarse.model.solve(30.0, gap=0.0)
    second = optimum_by_cp_sat(whole)
    return Twice(
        None if answer.infeasible else answer.objective * base,
        None if second is None else float(second * base),
        None if parted.infeasible else parted.bound * base,
        best_with_swaps(problem) if swaps else best_recompute_only(problem),
    )
