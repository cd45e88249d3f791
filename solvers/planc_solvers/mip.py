"""mip: keep, swap and recompute decided together, with a proven lower bound.

Independent tasks may first change places (`order`). Then two halves share the time limit. One proves bounds: coarse
models (`prover`, `coarse`) with one critical task first and more where the plans are still over the budget. The other
improves plans: local search (`searcher`, `search`) over exact simulations, started from greedy plans, decoded models
and the schedules of published policies, than the best of which no answer is slower.
Every incumbent is a complete schedule that has been simulated.
"""

from dataclasses import replace
from math import inf

from planc.errors import InfeasibleBudgetError, SolverTimeoutError
from planc.problem.bounds import check_feasible
from planc.problem.problem import Problem
from planc.schedule.residency import memory_profile
from planc.schedule.schedule import Schedule
from planc.schedule.solver import Candidate, SolveOptions
from planc.units import format_bytes
from planc_solvers.baselines.starts import expected_s, policy_schedules
from planc_solvers.evaluation.evaluate import ready_evaluation
from planc_solvers.plan_memory import KnownPlan, known_plan, recall, remember
from planc_solvers.portfolio import Portfolio
from planc_solvers.search.joint_order import free_order, reordered
from planc_solvers.search.task_order import better_order, first_executions, greedy_ns, permuted, ready_order, renumbered

EVERY = "every schedule"
IN_ORDER = "first executions in the given order"
IN_PLANS_ORDER = "first executions in the plan's order"

OTHERS = 3
"""Policies' and earlier schedules handed on with the best one, which may not pack."""


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
        if fastest and _fits(problem, keep):
            return Candidate(keep, problem.least_duration_ns, EVERY)
        ready_evaluation()
        ready_order()
        started = options.clock.now()
        order = better_order(problem, options) if options.start is None else first_executions(options.start)
        if order is not None and fastest and _fits(problem, Schedule(order)):
            return Candidate(Schedule(order), problem.least_duration_ns, EVERY)
        given = tuple(range(len(problem.tasks)))
        order, starts = order or given, [] if options.start is None else [options.start]
        if free_order(problem) and greedy_ns(permuted(problem, order), options.seed) == inf:
            found = renumbered(reordered(permuted(problem, order), options), order)
            order, starts = first_executions(found), starts or [found]
        policies: list[KnownPlan] = []
        try:
            return self._search(problem, order, starts, policies, _with_time_left(options, started))
        except InfeasibleBudgetError:
            if order == given:
                raise
            return self._search(problem, given, starts, policies, _with_time_left(options, started))

    def _search(
        self,
        problem: Problem,
        order: tuple[int, ...],
        starts: list[Schedule],
        policies: list[KnownPlan],
        options: SolveOptions,
    ) -> Candidate:
        """Search with first executions in `order`, unless one of the `starts` or a known plan has a better one.

        Where the start that the options give fits, policies are not asked: it comes from a solve that has asked them.
        """
        ranks = tuple(sorted(order, key=order.__getitem__))
        before = [] if options.clock.counted else recall(problem)
        portfolio = Portfolio(permuted(problem, order), options)
        known = [plan.schedule for plan in (*before, *policies)]
        portfolio.propose(renumbered(schedule, ranks) for schedule in (*known, *starts))

        def left() -> float:
            return inf if options.clock.counted else portfolio.state.left()

        def ask() -> None:
            for schedule in policy_schedules(problem, options, portfolio.state.finished, left):
                portfolio.propose([renumbered(schedule, ranks)])
                policies.append(known_plan(problem, schedule))

        if policies or portfolio.resumed:
            portfolio.run()
        else:
            portfolio.run(ask, expected_s(problem))
        before = sorted([*before, *policies], key=lambda known: known.step_ns)
        if portfolio.infeasible and not before:
            raise InfeasibleBudgetError(*portfolio.certificate())
        found = portfolio.schedule
        if found is not None:
            found = renumbered(found, order)
            if not options.clock.counted:
                remember(problem, found, portfolio.best_ns)
        if before and before[0].step_ns < portfolio.best_ns:
            found = before[0].schedule
        if found is None:
            host = problem.host_budget_bytes
            more = "let values swap" if host is None else f"allow more than {format_bytes(host)} of host memory"
            raise SolverTimeoutError(f"no plan within the time limit; allow more time, raise the budget or {more}")
        others = tuple(known.schedule for known in before[:OTHERS])
        if portfolio.bound_ns <= problem.least_duration_ns or first_executions(found) != order:
            return Candidate(found, problem.least_duration_ns, EVERY, others=others)
        given = order == tuple(range(len(order)))
        return Candidate(found, portfolio.bound_ns, IN_ORDER if given else IN_PLANS_ORDER, others=others)


def _with_time_left(options: SolveOptions, started: float) -> SolveOptions:
    """`options` for what is left of the time limit."""
    spent = options.clock.now() - started
    return replace(options, time_limit_s=max(0.0, options.time_limit_s - spent), patience_s=options.patience_s - spent)


def _fits(problem: Problem, schedule: Schedule) -> bool:
    return max(memory_profile(problem, schedule)) <= problem.budget_bytes
