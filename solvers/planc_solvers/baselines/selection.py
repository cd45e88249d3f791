"""How a policy with several schedules answers: the first, or the fastest, of those within the limits."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from planc.errors import InfeasibleBudgetError
from planc.problem.problem import Problem
from planc.schedule.residency import ValueResidency, host_bytes, memory_profile, residencies, without_idle_starts
from planc.schedule.schedule import Schedule
from planc.schedule.simulate import simulate
from planc.schedule.solver import Candidate
from planc.units import format_bytes


@dataclass(frozen=True)
class Need:
    """What a schedule takes: device bytes at its fullest step, that step's task, and bytes of the host tier."""

    schedule: Schedule
    residencies: Sequence[ValueResidency]
    device_bytes: int
    layer: str
    host_bytes: int

    @classmethod
    def of(cls, problem: Problem, schedule: Schedule) -> "Need":
        """The needs of `schedule`, in which batch and constant values that nothing reads from the start are left
        out."""
        found = residencies(problem, schedule)
        leaner = without_idle_starts(problem, schedule, found)
        if leaner is not schedule:
            schedule, found = leaner, residencies(problem, leaner)
        profile = memory_profile(problem, schedule, found)
        worst = max(range(len(profile)), key=profile.__getitem__)
        name = problem.tasks[schedule.steps[worst]].name
        return cls(schedule, found, profile[worst], name, host_bytes(problem, schedule))

    def fits(self, problem: Problem) -> bool:
        """Whether the limits of `problem` are kept."""
        limit = problem.host_budget_bytes
        return self.device_bytes <= problem.budget_bytes and (limit is None or self.host_bytes <= limit)


def first_fitting(name: str, problem: Problem, schedules: Iterable[Schedule]) -> Candidate:
    """The first of the `schedules` that fits. Raises InfeasibleBudgetError, with the least that one needs, if none
    does."""
    least: Need | None = None
    for schedule in schedules:
        need = Need.of(problem, schedule)
        if need.fits(problem):
            return candidate(problem, need.schedule)
        if least is None or need.device_bytes < least.device_bytes:
            least = need
    raise too_small(name, problem, least)


def kept(name: str, problem: Problem) -> Candidate | None:
    """Everything kept, by the policy `name`; None where that is over the budget."""
    keep = Schedule(tuple(range(len(problem.tasks))))
    if max(memory_profile(problem, keep)) > problem.budget_bytes:
        return None
    return first_fitting(name, problem, [keep])


def fastest_fitting(name: str, problem: Problem, schedules: Iterable[Schedule]) -> Candidate:
    """The fastest of the `schedules` that fit. Raises as `first_fitting`."""
    least: Need | None = None
    best: tuple[int, Schedule] | None = None
    for schedule in schedules:
        need = Need.of(problem, schedule)
        if need.fits(problem):
            time = simulate(problem, need.schedule, need.residencies).step_ns
            if best is None or time < best[0]:
                best = time, need.schedule
        elif least is None or need.device_bytes < least.device_bytes:
            least = need
    if best is None:
        raise too_small(name, problem, least)
    return candidate(problem, best[1])


def fastest_way(name: str, problem: Problem, ways: Iterable[Iterable[Schedule]]) -> Candidate:
    """The fastest of what `first_fitting` finds in each of several `ways`. Raises as `first_fitting` if it finds none."""
    found, errors = list[Candidate](), list[InfeasibleBudgetError]()
    for schedules in ways:
        try:
            found.append(first_fitting(name, problem, schedules))
        except InfeasibleBudgetError as error:
            errors.append(error)
    if not found:
        raise min(errors, key=lambda error: error.minimum_budget_bytes)
    return min(found, key=lambda each: simulate(problem, each.schedule).step_ns)


def candidate(problem: Problem, schedule: Schedule, allocator_bytes: int | None = None) -> Candidate:
    """`schedule` with the one bound that every policy has: the compute time of every task once."""
    return Candidate(schedule, problem.least_duration_ns, "every schedule", allocator_bytes)


def with_allocator(answer: Candidate, allocator_bytes: int) -> Candidate:
    """`answer` with what the policy's own allocator would take for it."""
    return replace(answer, allocator_bytes=allocator_bytes)


def too_small(name: str, problem: Problem, least: Need | None) -> InfeasibleBudgetError:
    """The error of the policy `name` none of whose schedules fits; `least` is the leanest, None where there is none."""
    budget, limit = format_bytes(problem.budget_bytes), problem.host_budget_bytes
    if least is None:
        need, layer = max((problem.entry_bytes(t), info.name) for t, info in enumerate(problem.tasks))
        text = f"{name} finds no schedule within {budget}; raise the budget or choose the solver 'mip'"
        return InfeasibleBudgetError(text, need, layer, problem.budget_bytes)
    if limit is not None and least.device_bytes <= problem.budget_bytes:
        host = format_bytes(least.host_bytes)
        text = f"{name} needs {host} on the host, which may take {format_bytes(limit)}; choose 'mip'"
        return InfeasibleBudgetError(text, least.device_bytes, least.layer, problem.budget_bytes)
    text = (
        f"{name} needs {format_bytes(least.device_bytes)} at layer {least.layer!r}, but tensors may take {budget}; raise "
        "the budget or choose the solver 'mip'"
    )
    return InfeasibleBudgetError(text, least.device_bytes, least.layer, problem.budget_bytes)
