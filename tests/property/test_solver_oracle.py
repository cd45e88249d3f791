"""Optimality claims against brute force on tiny problems."""

import random
from dataclasses import replace

import numpy as np
import pytest
from support.optimum import check_recomputation_optimum
from support.oracle import best_recompute_only, best_with_swaps
from support.problems import random_dag, small_swap_problem

from planc.problem.bounds import minimum_budget
from planc.problem.problem import Problem
from planc.schedule.residency import memory_profile
from planc.schedule.schedule import Schedule
from planc_solvers.bounds.chain_rows import add_chain_rows
from planc_solvers.bounds.coarse_model import coarse_model
from planc_solvers.bounds.engine_rows import add_engine_rows


def _tight(problem: Problem, seed: int) -> Problem:
    peak = max(memory_profile(problem, Schedule(tuple(range(len(problem.tasks))))))
    least, _ = minimum_budget(problem)
    return replace(problem, budget_bytes=random.Random(seed).randint(least, max(least, peak - 1)))


def _bounds(problem: Problem, seed: int) -> list[float]:
    """Bounds of four random choices of critical tasks; infinite where the model is infeasible."""
    rng, tasks, found = random.Random(seed), len(problem.tasks), []
    for _ in range(4):
        critical = tuple(sorted(rng.sample(range(1, tasks), rng.randint(1, min(3, tasks - 1)))))
        coarse = coarse_model(problem, critical)
        add_engine_rows(coarse)
        # Rows that a random point violates are as valid as those that a relaxation's does.
        add_chain_rows(coarse, np.random.default_rng(seed).random(len(coarse.model.cost)) * 0.3)
        answer = coarse.model.solve(10)
        found.append(answer.bound * problem.base_duration_ns)
    return found


@pytest.mark.parametrize("seed", range(150))
def test_no_bound_exceeds_the_optimum_of_recomputation(seed: int) -> None:
    problem = _tight(random_dag(seed), seed)
    best = best_recompute_only(problem)
    if best is not None:
        assert max(_bounds(problem, seed)) <= best * (1 + 1e-5)


@pytest.mark.parametrize("seed", range(60))
def test_no_bound_exceeds_the_optimum_with_swaps(seed: int) -> None:
    problem = _tight(small_swap_problem(seed), seed)
    best = best_with_swaps(problem)
    if best is not None:
        assert max(_bounds(problem, seed)) <= best * (1 + 1e-5)


@pytest.mark.parametrize("seed", range(60))
def test_no_bound_exceeds_the_optimum_with_a_host_limit(seed: int) -> None:
    problem = _tight(small_swap_problem(seed), seed)
    slots = [problem.host_bytes(v) for v, info in enumerate(problem.values) if info.swappable]
    limited = replace(
        problem, host_budget_bytes=random.Random(seed).randint(min(slots), max(min(slots), sum(slots) - 1))
    )
    best = best_with_swaps(limited)
    if best is not None:
        assert max(_bounds(limited, seed)) <= best * (1 + 1e-5)


@pytest.mark.parametrize("seed", range(25))
def test_recomputation_is_solved_to_the_optimum(seed: int) -> None:
    problem = _tight(random_dag(seed), seed)
    check_recomputation_optimum(problem)
