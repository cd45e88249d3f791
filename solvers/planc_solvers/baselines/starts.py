"""Schedules of published policies as starts of planc's own search: it begins no worse than the best of them."""

import time
from collections.abc import Callable, Iterator

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

SEARCHING: tuple[type[Solver], ...] = (Capuchin, Dtr, Rotor, PytorchKnapsack, Revolve)
"""Policies that try several schedules, or look at all values for each task; in the same order."""

MOST_TASKS = 2_000
"""Tasks beyond which the searching ones take longer than a search of planc's own needs to be better."""

SHARE = 0.3
"""Part of the time limit after which no further policy is asked. All of them take 2 s for the 494 tasks of ResNet-50."""


def policy_schedules(problem: Problem, options: SolveOptions, settled: Callable[[], bool]) -> Iterator[Schedule]:
    """What the quick policies answer within the limits of `problem`, until the solve is `settled`.

    Where work is counted instead of time, all are asked, so that results repeat.
    """
    ends = time.monotonic() + SHARE * options.time_limit_s
    searching = SEARCHING if len(problem.tasks) <= MOST_TASKS else ()
    for policy in (*searching[:1], *QUICK[:2], *searching[1:3], *QUICK[2:], *searching[3:]):
        if settled() or (not options.clock.counted and time.monotonic() > ends):
            return
        try:
            yield policy().solve(problem, options).schedule
        except (InfeasibleBudgetError, SolverTimeoutError, PolicyScopeError):
            continue
