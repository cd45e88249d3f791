"""mip: keep, swap and recompute decided together, with a proven lower bound.

Two halves share one time limit. One proves bounds: coarse models (`coarse`) with one critical task first and more where
the plans are still over the budget. The other improves plans: local search (`search`) over exact simulations, started
from the decoded models and from simple policies. Every incumbent is a complete schedule that has been simulated.
"""

from planc.errors import InfeasibleBudgetError, SolverTimeoutError
from planc.problem.bounds import check_feasible
from planc.problem.problem import Problem
from planc.schedule.residency import memory_profile
from planc.schedule.schedule import Schedule
from planc.schedule.solver import Candidate, SolveOptions
from planc_solvers.portfolio import Portfolio

EVERY = "every schedule"
IN_ORDER = "first executions in the given order"


class Mip:
    """The planner: a certified schedule within the time limit."""

    def solve(self, problem: Problem, options: SolveOptions) -> Candidate:
        """The best schedule found and the best bound proved.

        Raises InfeasibleBudgetError when a layer alone, or provably every schedule, needs more than the budget, and
        SolverTimeoutError when no schedule was found in time.
        """
        check_feasible(problem)
        keep = Schedule(tuple(range(len(problem.tasks))))
        if max(memory_profile(problem, keep)) <= problem.budget_bytes:
            return Candidate(keep, problem.base_duration_ns, EVERY)
        portfolio = Portfolio(problem, options)
        portfolio.run()
        if portfolio.infeasible:
            raise InfeasibleBudgetError(*portfolio.certificate())
        if portfolio.schedule is None:
            raise SolverTimeoutError(
                f"no plan within {options.time_limit_s:g} s; allow more time, raise the budget or let values swap"
            )
        bound = portfolio.bound_ns
        return Candidate(portfolio.schedule, bound, EVERY if bound <= problem.base_duration_ns else IN_ORDER)
