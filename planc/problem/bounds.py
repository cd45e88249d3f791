"""Bounds that hold for every schedule of a problem."""

from planc.errors import InfeasibleBudgetError
from planc.problem.problem import Problem
from planc.units import format_bytes


def minimum_budget(problem: Problem) -> tuple[int, str]:
    """(bytes, task name): the largest working set of a single task, below which no schedule goes, and that task."""
    worst = max(range(len(problem.tasks)), key=problem.entry_bytes)
    return problem.entry_bytes(worst), problem.tasks[worst].name


def check_feasible(problem: Problem) -> None:
    """Raise InfeasibleBudgetError when a single task needs more than the budget."""
    need, name = minimum_budget(problem)
    if need > problem.budget_bytes:
        raise InfeasibleBudgetError(
            f"layer {name!r} alone needs {format_bytes(need)}, "
            f"but tensors may take {format_bytes(problem.budget_bytes)}",
            need,
            name,
            problem.budget_bytes,
        )
