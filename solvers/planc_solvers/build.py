"""Plan → Schedule: the placed copies of an evaluated plan, as the compiler's types."""

from planc.problem.problem import Origin, Problem
from planc.schedule.schedule import Copy, Direction, Schedule
from planc_solvers.arrays import Plan
from planc_solvers.workspace import INS, OUTS, Workspace


def schedule_of(problem: Problem, plan: Plan, placed: Workspace) -> Schedule:
    """The schedule of `plan`, which `evaluate` has just placed in `placed` without excess."""
    steps = tuple(int(t) for t in plan.seq[: plan.length[0]])
    order = placed.out_order[: placed.tally[OUTS]]
    outs = tuple(
        Copy(int(placed.out_value[i]), Direction.OUT, int(placed.out_start[i]), int(placed.out_stop[i])) for i in order
    )
    ins = tuple(
        Copy(int(placed.in_value[i]), Direction.IN, int(placed.in_start[i]), int(placed.in_stop[i]))
        for i in range(placed.tally[INS])
    )
    host = frozenset(
        v for v, value in enumerate(problem.values) if plan.home[v] and value.origin is not Origin.COMPUTED
    )
    choices = tuple(int(c) for c in plan.choice[: len(steps)]) if plan.choice[: len(steps)].any() else ()
    return Schedule(steps, outs + ins, host, choices)
