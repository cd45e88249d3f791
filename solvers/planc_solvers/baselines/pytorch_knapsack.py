"""pytorch-knapsack: PyTorch's `activation_memory_budget`, a knapsack over what the forward pass saves.

torch._functorch.partitioners (2024): between saving what the fastest step wants (budget 1) and saving inputs only
(budget 0), the recomputable intermediate results compete for a share of the activation memory: each is worth the time
of its operator and weighs its bytes (`dp_knapsack`, sizes in 10,000ths of the memory). What is left out is computed
again, chains included, when the backward pass first reads it, and stays until its last reader.

The share is not the budget of the step: which peak it leads to is only known afterwards, and a smaller share may need
more. As a user who searches for the best setting would, we try twenty shares and take the fastest schedule that fits.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from planc.problem.problem import Problem
from planc.schedule.schedule import Schedule
from planc.schedule.solver import Candidate, SolveOptions
from planc_solvers.baselines.replay import droppable, replayed
from planc_solvers.baselines.selection import fastest_fitting
from planc_solvers.baselines.training_step import backward_start, saved_values

SHARES = tuple(k / 20 for k in range(20, -1, -1))
"""The settings of `activation_memory_budget` that are tried."""

_UNITS = 1000
"""Parts of the memory in which the knapsack measures sizes; PyTorch takes 10,000, which differs by under 0.1 %."""


class PytorchKnapsack:
    """Recompute only: the fastest of the schedules that the partitioner makes for its settings."""

    def solve(self, problem: Problem, options: SolveOptions) -> Candidate:  # noqa: ARG002
        """Raises InfeasibleBudgetError when no setting fits the budget."""
        return fastest_fitting("pytorch-knapsack", problem, _schedules(problem))


def _schedules(problem: Problem) -> Iterator[Schedule]:
    start = backward_start(problem)
    made = {v for v, p in enumerate(problem.producer) if p is not None and p < start}
    free = droppable(problem, made, start)
    saved = [s.value for s in saved_values(problem, start) if s.value in free]
    yield Schedule(tuple(range(len(problem.tasks))))
    seen: set[frozenset[int]] = set()
    for kept in kept_values(problem, saved, SHARES):
        if kept not in seen:
            seen.add(kept)
            yield Schedule(replayed(problem, droppable(problem, free - kept, start), start))


def kept_values(problem: Problem, saved: Sequence[int], shares: Sequence[float]) -> list[frozenset[int]]:
    """For each share of the bytes of the `saved` values those of the most computing time that fit it together."""
    total = sum(problem.values[v].bytes for v in saved)
    if not total:
        return [frozenset(saved)] * len(shares)
    weights = [-(-problem.values[v].bytes * _UNITS // total) for v in saved]
    worth = [problem.tasks[problem.producer[v] or 0].duration_ns for v in saved]
    best = np.zeros(_UNITS + 1, np.int64)
    taken = np.zeros((len(saved), _UNITS + 1), bool)
    for item, (weight, gain) in enumerate(zip(weights, worth, strict=True)):
        if weight > _UNITS:
            continue
        with_it = best[: _UNITS + 1 - weight] + gain
        taken[item, weight:] = with_it > best[weight:]
        best[weight:] = np.maximum(best[weight:], with_it)
    return [frozenset(saved) if share >= 1 else _picked(taken, weights, saved, int(share * _UNITS)) for share in shares]


def _picked(taken: np.ndarray, weights: Sequence[int], saved: Sequence[int], room: int) -> frozenset[int]:
    found = []
    for item in range(len(saved) - 1, -1, -1):
        if taken[item, room]:
            found.append(saved[item])
            room -= weights[item]
    return frozenset(found)
