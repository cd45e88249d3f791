"""Linear models against solutions known by hand."""

import subprocess
import sys
from math import inf

import numpy as np
import pytest

from planc_solvers.bounds.linear_model import LinearModel


def _knapsack() -> LinearModel:
    """Maximise 5 a + 4 b + 3 c with 2 a + 3 b + c ≤ 4: a and c, value 8; relaxed a, c and a third of b, 9 1/3."""
    model = LinearModel()
    chosen = [model.variable(0, 1, cost=-value, integer=True) for value in (5.0, 4.0, 3.0)]
    model.row(list(zip(chosen, (2.0, 3.0, 1.0), strict=True)), upper=4.0)
    return model


def test_integers_and_relaxation() -> None:
    exact, relaxed = _knapsack().solve(10), _knapsack().solve(10, relaxed=True)
    assert exact.objective == pytest.approx(-8)
    assert exact.bound == pytest.approx(-8)
    assert exact.point is not None
    assert [round(x) for x in exact.point] == [1, 0, 1]
    assert relaxed.bound == pytest.approx(-28 / 3)


@pytest.mark.parametrize("relaxed", [True, False])
def test_infeasible_models_are_told(relaxed: bool) -> None:
    model = LinearModel()
    x = model.variable(0, 1, integer=True)
    model.row([(x, 1.0)], lower=2.0)
    answer = model.solve(10, relaxed=relaxed)
    assert answer.infeasible
    assert answer.bound == inf
    assert answer.point is None


def test_any_duals_prove_a_bound_and_the_best_ones_the_optimum() -> None:
    model = _knapsack()
    relaxed = model.solve(10, relaxed=True)
    assert relaxed.duals is not None
    assert model.lagrangian_bound(relaxed.duals) == pytest.approx(relaxed.objective)
    for dual in (-3.0, -1.0, 0.0, 2.0):
        assert model.lagrangian_bound(np.array([dual])) <= relaxed.objective + 1e-9


def test_a_free_variable_is_bounded_by_the_optimum() -> None:
    """Minimise t with t ≥ 3 x and x = 1: the optimum is 3, and wrong duals prove less, never more."""
    model = LinearModel()
    t, x = model.variable(0, inf, cost=1.0), model.variable(1, 1)
    model.row([(t, 1.0), (x, -3.0)], lower=0.0)
    assert [model.lagrangian_bound(np.array([y])) for y in (1.0, 0.5)] == pytest.approx([3.0, 1.5])
    assert model.lagrangian_bound(np.array([1.5])) <= 3.0


_EXIT_DURING_A_SOLVE = """
import random, sys, threading, time
from ortools.util.python.solve_interrupter import SolveInterrupter
from planc_solvers.bounds.linear_model import Effort, LinearModel

glop, draw, model = sys.argv[1] == "glop", random.Random(0), LinearModel()
columns = [model.variable(0, 1, cost=-draw.randint(1, 99), integer=not glop) for _ in range(1500 if glop else 120)]
for _ in range(1200 if glop else 60):
    model.row([(v, draw.randint(1, 99)) for v in draw.sample(columns, 60)], upper=1400.0)
effort, begun = Effort(1.0 if not glop else 30.0, interrupter=SolveInterrupter()), threading.Event()

def prove():
    begun.set()
    model.solve(effort, relaxed=glop)

class Slow:
    def __del__(self, sleep=time.sleep):
        sleep(2)

sys.slow = Slow()
threading.Thread(target=prove, daemon=True).start()
begun.wait()
time.sleep(0.3)
"""
"""A process that is done while a thread solves, and whose interpreter takes two seconds to end."""


@pytest.mark.parametrize("solver", ["glop", "highs"])
def test_a_process_that_ends_during_a_solve_is_not_aborted(solver: str) -> None:
    ended = subprocess.run([sys.executable, "-c", _EXIT_DURING_A_SOLVE, solver], capture_output=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, b"")
