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
from planc_solvers.known import recall, remember
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
        fastest = problem.base_duration_ns == problem.least_duration_ns
        if fastest and max(memory_profile(problem, keep)) <= problem.budget_bytes:
            return Candidate(keep, problem.least_duration_ns, EVERY)
        portfolio, before = Portfolio(problem, options), recall(problem) if options.workers > 1 else []
        portfolio.propose(known.schedule for known in before)
        if options.start is not None:
            portfolio.propose([options.start])
        portfolio.run()
        if portfolio.infeasible:
            raise InfeasibleBudgetError(*portfolio.certificate())
        schedule = portfolio.schedule
        if schedule is None and not before:
            raise SolverTimeoutError(
                f"no plan within {options.time_limit_s:g} s; allow more time, raise the budget or let values swap"
            )
        if schedule is not None:
            remember(problem, schedule, portfolio.best_ns)
        if before and before[0].step_ns < portfolio.best_ns:
            schedule = before[0].schedule
        bound, trivial = portfolio.bound_ns, portfolio.bound_ns <= problem.least_duration_ns
        return Candidate(schedule or before[0].schedule, bound, EVERY if trivial else IN_ORDER)
