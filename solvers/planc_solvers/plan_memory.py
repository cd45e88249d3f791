"""Plans already found in this process, so that a larger budget never gets a slower one than a smaller budget did."""

from collections import OrderedDict
from dataclasses import dataclass

from planc.problem.problem import Problem
from planc.schedule.residency import host_bytes, memory_profile, residencies
from planc.schedule.schedule import Schedule
from planc.schedule.simulate import simulate

PROBLEMS = 4
"""Problems remembered: a comparison goes back and forth between the few forms of one graph."""

PLANS = 8
"""Plans remembered of each: of more, the one that needs most memory is forgotten."""


@dataclass(frozen=True, slots=True)
class KnownPlan:
    """A schedule and what it needs: device and host bytes, ns."""

    schedule: Schedule
    peak_bytes: int
    host_bytes: int
    step_ns: int

    def fits(self, problem: Problem) -> bool:
        """Whether the schedule keeps the limits of `problem`."""
        host = problem.host_budget_bytes
        return self.peak_bytes <= problem.budget_bytes and (host is None or self.host_bytes <= host)


def known_plan(problem: Problem, schedule: Schedule) -> KnownPlan:
    """`schedule`, measured."""
    found = residencies(problem, schedule)
    return KnownPlan(
        schedule,
        max(memory_profile(problem, schedule, found)),
        host_bytes(problem, schedule),
        simulate(problem, schedule, found).step_ns,
    )


_known: OrderedDict[int, list[KnownPlan]] = OrderedDict()


def _key(problem: Problem) -> int:
    return hash((problem.tasks, problem.values, problem.contention, problem.boundary_ns, problem.host_alignment))


def recall(problem: Problem) -> list[KnownPlan]:
    """Plans of the same problem, at any budget, that fit this one's, fastest first."""
    fitting = [known for known in _known.get(_key(problem), []) if known.fits(problem)]
    return sorted(fitting, key=lambda known: known.step_ns)


def remember(problem: Problem, schedule: Schedule, step_ns: int) -> None:
    """Keep a schedule for later solves; of too many the one that needs most is forgotten."""
    key = _key(problem)
    plans = _known.setdefault(key, [])
    _known.move_to_end(key)
    peak, host = max(memory_profile(problem, schedule)), host_bytes(problem, schedule)
    plans.append(KnownPlan(schedule, peak, host, step_ns))
    plans.sort(key=lambda known: (known.peak_bytes, known.step_ns))
    del plans[PLANS:]
    while len(_known) > PROBLEMS:
        _known.popitem(last=False)
