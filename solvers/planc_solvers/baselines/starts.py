"""Schedules of published policies as starts of planc's own search: it begins no worse than the best of them."""

from collections.abc import Callable, Iterator
from math import inf

from planc.errors import InfeasibleBudgetError, PolicyScopeError, SolverTimeoutError
from planc.problem.problem import Problem
from planc.schedule.schedule import Schedule
from planc.schedule.solver import SolveOptions, Solver
from planc_solvers.baselines.capuchin import Capuchin
from planc_solvers.baselines.dtr import Dtr
from planc_solvers.baselines.layrub import Layrub
from planc_solvers.baselines.layup import Layup
from planc_solvers.baselines.pytorch_knapsack import PytorchKnapsack
from planc_solvers.baselines.revolve import Revolve
from planc_solvers.baselines.rotor import Rotor
from planc_solvers.baselines.sqrt_n import SqrtN
from planc_solvers.baselines.superneurons import Superneurons
from planc_solvers.baselines.vdnn import VdnnAll, VdnnConv, VdnnDyn

QUICK: tuple[type[Solver], ...] = (Superneurons, VdnnDyn, Layrub, VdnnAll, VdnnConv, Layup, SqrtN)
"""Policies that look once at each task, the ones that are most often the best of them first."""

SEARCHING: tuple[type[Solver], ...] = (Dtr, Capuchin, PytorchKnapsack, Rotor, Revolve)
"""Policies that try several schedules, or look at all values for each task; in the same order, and the first is the
quickest."""

MOST_TASKS = 2_000
"""Tasks beyond which the searching ones take longer than a search of planc's own needs to be better."""

SHARE = 0.3
"""Part of the time limit after which no further policy is asked once one has answered. All of them take 2 s for the 494
tasks of ResNet-50."""

QUICK_S, SEARCHING_S = 5e-5, 5e-4
"""Seconds that a policy of either kind counts for each task, where work is counted."""

QUICK_TAKES_S, SEARCHING_TAKES_S = 3e-4, 2e-3
"""Seconds that it takes for each task: what a policy begins it ends, and it holds the interpreter's lock meanwhile."""


def expected_s(problem: Problem) -> float:
    """Seconds that all policies take."""
    searching = len(SEARCHING) if len(problem.tasks) <= MOST_TASKS else 0
    return len(problem.tasks) * (len(QUICK) * QUICK_TAKES_S + searching * SEARCHING_TAKES_S)


def policy_schedules(
    problem: Problem, options: SolveOptions, finished: Callable[[], bool], left: Callable[[], float] = lambda: inf
) -> Iterator[Schedule]:
    """What the policies answer within the limits of `problem`, until the solve is `finished` or, if one has answered, its
    share of time over. Policies that take more than the seconds that the solve has `left` are not asked."""
    clock = options.clock
    ends, answered = clock.now() + SHARE * options.time_limit_s, False
    searching = SEARCHING if len(problem.tasks) <= MOST_TASKS else ()
    for policy in (*searching[:1], *QUICK[:2], *searching[1:3], *QUICK[2:], *searching[3:]):
        if finished() or (answered and clock.now() > ends):
            return
        if (SEARCHING_TAKES_S if policy in SEARCHING else QUICK_TAKES_S) * len(problem.tasks) > left():
            continue
        clock.spend((SEARCHING_S if policy in SEARCHING else QUICK_S) * len(problem.tasks))
        try:
            schedule = policy().solve(problem, options).schedule
            answered = True
            yield schedule
        except (InfeasibleBudgetError, SolverTimeoutError, PolicyScopeError):
            continue
