"""keep-all: every value stays on the device from its making to its last reader, as an ordinary framework does."""

from planc.problem.problem import Problem
from planc.schedule.schedule import Schedule
from planc.schedule.solver import Candidate, SolveOptions
from planc_solvers.baselines.selection import first_fitting


class KeepAll:
    """Liveness only: no copy, no recomputation; optimal in time wherever it fits."""

    def solve(self, problem: Problem, options: SolveOptions) -> Candidate:  # noqa: ARG002
        """Keep everything. Raises InfeasibleBudgetError when the liveness peak exceeds the budget."""
        return first_fitting("keep-all", problem, [Schedule(tuple(range(len(problem.tasks))))])
