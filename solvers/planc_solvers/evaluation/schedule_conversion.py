"""Plan → Schedule, and back: the placed copies of an evaluated plan as the compiler's types."""

import numpy as np

from planc.enums import Direction
from planc.problem.problem import Origin, Problem
from planc.schedule.schedule import Schedule, Transfer
from planc_solvers.evaluation.arrays import Arrays, SearchPlan, empty_plan
from planc_solvers.evaluation.workspace import INS, OUTS, Workspace


def schedule_of(problem: Problem, plan: SearchPlan, placed: Workspace) -> Schedule:
    """The schedule of `plan`, which `evaluate` has just placed in `placed` without excess."""
    steps = tuple(int(t) for t in plan.seq[: plan.length[0]])
    order = placed.out_order[: placed.tally[OUTS]]
    outs = tuple(
        Transfer(int(placed.out_value[i]), Direction.OUT, int(placed.out_start[i]), int(placed.out_stop[i]))
        for i in order
    )
    ins = tuple(
        Transfer(int(placed.in_value[i]), Direction.IN, int(placed.in_start[i]), int(placed.in_stop[i]))
        for i in range(placed.tally[INS])
    )
    host = frozenset(
        v for v, value in enumerate(problem.values) if plan.home[v] and value.origin is not Origin.COMPUTED
    )
    choices = tuple(int(c) for c in plan.choice[: len(steps)]) if plan.choice[: len(steps)].any() else ()
    return Schedule(steps, outs + ins, host, choices)


def plan_of(problem: Problem, arrays: Arrays, schedule: Schedule) -> SearchPlan | None:
    """The decisions of `schedule` as a plan of `problem`, which has its tasks and values; None if it has no room for it.

    When copies start is not a decision of a plan. A schedule without choices says nothing of forms that tasks lack.
    """
    plan, length = empty_plan(arrays), len(schedule.steps)
    if length > plan.seq.size:
        return None
    plan.seq[:length] = schedule.steps
    plan.length[0] = length
    choices = schedule.choices or (0,) * length
    plan.choice[:length] = [
        c if c < len(problem.tasks[t].forms) else 0 for t, c in zip(schedule.steps, choices, strict=True)
    ]
    plan.home[list(schedule.host_start)] = 1
    plan.home[[c.value for c in schedule.copies if problem.values[c.value].needed_after_step]] = 1
    awaited: dict[int, list[int]] = {}
    for copy in schedule.copies:
        if copy.direction is Direction.IN:
            awaited.setdefault(copy.value, []).append(copy.stop)
    for position, task in enumerate(schedule.steps):
        for slot, value in enumerate(problem.accesses[task]):
            stops = awaited.get(value, [])
            if any(stop <= position for stop in stops):
                awaited[value] = [stop for stop in stops if stop > position]
                plan.fetch[position, slot >> 6] |= np.uint64(1) << np.uint64(slot & 63)
    return adapted(arrays, plan)


def adapted(arrays: Arrays, plan: SearchPlan) -> SearchPlan:
    """`plan` with what may not be swapped at home on the device."""
    plan.home[arrays.swappable == 0] = 0
    return plan
