"""keep-all: every value stays on the device from its making to its last reader, as an ordinary framework does."""

from planc.errors import InfeasibleBudgetError
from planc.problem.problem import Problem
from planc.schedule.residency import memory_profile
from planc.schedule.schedule import Schedule
from planc.schedule.solver import Candidate, SolveOptions
from planc.units import format_bytes


class KeepAll:
    """Liveness only: no copy, no recomputation; optimal in time wherever it fits."""

    def solve(self, problem: Problem, options: SolveOptions) -> Candidate:  # noqa: ARG002
        """Keep everything. Raises InfeasibleBudgetError when the liveness peak exceeds the budget."""
        schedule = Schedule(tuple(range(len(problem.tasks))))
        profile = memory_profile(problem, schedule)
        worst = max(range(len(profile)), key=profile.__getitem__)
        if profile[worst] > problem.budget_bytes:
            name = problem.tasks[worst].name
            message = (
                f"keep-all needs {format_bytes(profile[worst])} at layer {name!r}, "
                f"but tensors may take {format_bytes(problem.budget_bytes)}; choose a solver that swaps or recomputes"
            )
            raise InfeasibleBudgetError(message, profile[worst], name, problem.budget_bytes)
        return Candidate(schedule, problem.least_duration_ns, "every schedule")
