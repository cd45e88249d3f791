"""What the simple policies share: their one schedule fits, or the budget is infeasible for them."""

from planc.errors import InfeasibleBudgetError
from planc.problem.problem import Problem
from planc.schedule.residency import host_bytes, memory_profile
from planc.schedule.schedule import Schedule
from planc.schedule.solver import Candidate
from planc.units import format_bytes


def only_schedule(name: str, problem: Problem, schedule: Schedule) -> Candidate:
    """`schedule` as the answer of the policy `name`.

    Raises InfeasibleBudgetError, with the bytes that this schedule needs, when it exceeds the budget or the host's limit.
    """
    profile = memory_profile(problem, schedule)
    worst = max(range(len(profile)), key=profile.__getitem__)
    if profile[worst] > problem.budget_bytes:
        layer = problem.tasks[schedule.steps[worst]].name
        message = (
            f"{name} needs {format_bytes(profile[worst])} at layer {layer!r}, but tensors may take "
            f"{format_bytes(problem.budget_bytes)}; raise the budget or choose the solver 'mip'"
        )
        raise InfeasibleBudgetError(message, profile[worst], layer, problem.budget_bytes)
    host, limit = host_bytes(problem, schedule), problem.host_budget_bytes
    if limit is not None and host > limit:
        message = f"{name} needs {format_bytes(host)} on the host, which may take {format_bytes(limit)}; choose 'mip'"
        raise InfeasibleBudgetError(message, profile[worst], problem.tasks[schedule.steps[worst]].name)
    return Candidate(schedule, problem.least_duration_ns, "every schedule")


def turning_point(problem: Problem) -> int:
    """The task at which keeping everything needs most: in a training step, where the backward pass takes over."""
    profile = memory_profile(problem, Schedule(tuple(range(len(problem.tasks)))))
    return max(range(len(profile)), key=profile.__getitem__)


def saved_values(problem: Problem, turn: int) -> dict[int, tuple[int, int]]:
    """Computed values idle across the task `turn`, each with the tasks that use it last before and first after."""
    found: dict[int, tuple[int, int]] = {}
    for value, producer in enumerate(problem.producer):
        if producer is not None and producer < turn:
            accesses = (producer, *problem.readers[value])
            after = [task for task in accesses if task > turn]
            if after and turn not in accesses:
                found[value] = (max(task for task in accesses if task < turn), after[0])
    return found
