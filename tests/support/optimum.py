"""The solver against brute force, where values only stay or are made again."""

from planc.errors import InfeasibleBudgetError, SolverTimeoutError
from planc.problem.problem import Problem
from planc.schedule.solver import SolveOptions, solve
from planc_solvers.mip import IN_ORDER, Mip
from support.oracle import best_recompute_only


def check_recomputation_optimum(problem: Problem) -> None:
    """The solver finds the optimum of the given order, or something at least as good in another."""
    best = best_recompute_only(problem)
    try:
        solution = solve(Mip(), problem, SolveOptions(time_limit_s=0.5, workers=1))
    except (InfeasibleBudgetError, SolverTimeoutError):
        assert best is None
        return
    if solution.bound_scope == IN_ORDER:
        assert best is not None
        assert solution.lower_bound_ns <= best == solution.timeline.step_ns
    else:
        assert best is None or solution.timeline.step_ns <= best
