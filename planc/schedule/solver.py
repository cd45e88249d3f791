"""What a solver is: a policy that turns a problem into a schedule, found by entry point `planc.solvers`."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.metadata import entry_points
from pkgutil import resolve_name
from typing import Protocol

from planc.clock import WALL, StoppableClock, WorkClock
from planc.enums import Status
from planc.errors import InternalError, UsageError
from planc.problem.bounds import check_feasible
from planc.problem.problem import Problem
from planc.schedule.residency import host_bytes, memory_profile, residencies, without_idle_starts
from planc.schedule.schedule import Schedule
from planc.schedule.simulate import Timeline, simulate

OPTIMAL_GAP = 1e-4


@dataclass(frozen=True, slots=True)
class Progress:
    """A report while a solver runs; None where nothing is known yet."""

    elapsed_s: float
    incumbent_ns: int | None
    bound_ns: int | None
    message: str = ""


@dataclass(frozen=True, slots=True)
class SolveOptions:
    """Limits of one solve. With `workers` = 1 the same seed gives the same schedule: time is then work counted, by `clock`
    if that counts it and else by one of the solve's own.

    A solve that has no schedule at its time limit goes on until it has one, for `patience_s` seconds in all at most. It
    ends early when the gap is at most `gap`, a fraction; None leaves it to the policy when more time is not worth it.
    Without `prove` a bound is not asked for.
    With `one_form` all executions of a task get one form, its leanest: those of a library need not make the same bits, and
    what is recomputed must be what it was.
    `start` is a schedule from which a policy may begin its search, of this problem or of one with other sizes, times and
    limits but the same tasks and values; it need not fit.
    """

    time_limit_s: float = 60.0
    seed: int = 0
    workers: int = 2
    on_progress: Callable[[Progress], None] = field(default=lambda _: None)
    start: Schedule | None = None
    patience_s: float = 0.0
    gap: float | None = None
    prove: bool = True
    clock: StoppableClock = WALL
    one_form: bool = False


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a policy returns: a schedule, and the best lower bound (ns) it proved on the step time, with its scope.

    `bound_scope` says over which schedules the bound holds: `every schedule`, `first executions in the given order` or
    `first executions in the plan's order`. `allocator_bytes` are what the policy's own allocator would take for the
    schedule, where it has one that is not planc's packing. `others` are schedules within the limits too, the fastest first,
    for where no addresses are found for the best one.
    """

    schedule: Schedule
    lower_bound_ns: int
    bound_scope: str
    allocator_bytes: int | None = None
    others: tuple[Schedule, ...] = ()


@dataclass(frozen=True, slots=True)
class Solution:
    """A checked schedule with its predicted times, the proven lower bound and what follows from both.

    `others` are those of the candidate, not checked yet.
    """

    schedule: Schedule
    timeline: Timeline
    peak_bytes: int
    lower_bound_ns: int
    bound_scope: str
    gap: float
    status: Status
    allocator_bytes: int | None = None
    others: tuple[Schedule, ...] = ()


class Solver(Protocol):
    """One policy. It never returns a schedule over the budget."""

    def solve(self, problem: Problem, options: SolveOptions) -> Candidate:
        """A schedule for `problem`.

        Raises InfeasibleBudgetError when the policy has no schedule within the budget and SolverTimeoutError when the
        time limit passed before it found one.
        """
        ...


def solver_names() -> tuple[str, ...]:
    """Names of the installed policies."""
    return tuple(sorted(entry.name for entry in entry_points(group="planc.solvers")))


def load_solver(name: str) -> Solver:
    """The policy called `name`, or the one at `module:Class`. Raises UsageError when there is none."""
    if ":" in name:
        return _policy_at(name)
    for entry in entry_points(group="planc.solvers"):
        if entry.name == name:
            policy: Callable[[], Solver] = entry.load()
            return policy()
    raise UsageError(f"unknown solver {name!r}: choose one of {', '.join(solver_names())}")


def _policy_at(place: str) -> Solver:
    try:
        policy: Callable[[], Solver] = resolve_name(place)
        return policy()
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise UsageError(f"unknown solver {place!r}: expected module:Class of a policy ({error})") from error


def in_one_form(problem: Problem, schedule: Schedule) -> Schedule:
    """The schedule with every task in the leanest of the forms that it chose for it."""
    leanest: dict[int, int] = {}
    for task, choice in zip(schedule.steps, schedule.choices, strict=False):
        forms = problem.tasks[task].forms
        leanest[task] = min(leanest.get(task, choice), choice, key=lambda c: (forms[c].working_bytes, c))
    return replace(schedule, choices=tuple(leanest[task] for task in schedule.steps)) if leanest else schedule


def solve(solver: Solver, problem: Problem, options: SolveOptions) -> Solution:
    """Run a policy and check what it returns, at the one door through which every schedule passes.

    Raises what the policy raises, and InternalError when its schedule is over the budget or not valid.
    """
    check_feasible(problem)
    if options.workers == 1 and not options.clock.counted:
        options = replace(options, clock=WorkClock())
    return checked(problem, solver.solve(problem, options), options)


def checked(problem: Problem, candidate: Candidate, options: SolveOptions) -> Solution:
    """The solution that a candidate is. Raises InternalError when its schedule is over the budget or not valid."""
    chosen = in_one_form(problem, candidate.schedule) if options.one_form else candidate.schedule
    found = residencies(problem, chosen)
    schedule = without_idle_starts(problem, chosen, found)
    if schedule is not chosen:
        found = residencies(problem, schedule)
    peak = max(memory_profile(problem, schedule, found))
    if peak > problem.budget_bytes:
        raise InternalError(f"the solver's schedule needs {peak} bytes, over the budget of {problem.budget_bytes}")
    host, host_budget = host_bytes(problem, schedule), problem.host_budget_bytes
    if host_budget is not None and host > host_budget:
        raise InternalError(f"the solver's schedule needs {host} bytes on the host, over the limit of {host_budget}")
    timeline = simulate(problem, schedule, found)
    bound = max(candidate.lower_bound_ns, problem.least_duration_ns)
    gap = max(0.0, (timeline.step_ns - bound) / timeline.step_ns) if timeline.step_ns else 0.0
    status = Status.OPTIMAL if gap <= OPTIMAL_GAP else Status.FEASIBLE
    scope, allocator = candidate.bound_scope, candidate.allocator_bytes
    return Solution(schedule, timeline, peak, bound, scope, gap, status, allocator, candidate.others)
