"""How to compile, and what comes of it."""

from collections.abc import Callable
from dataclasses import dataclass, field

from planc.errors import UsageError
from planc.plan import plan as p
from planc.planning.build import PlanningProblem
from planc.schedule.solver import Progress, Solution
from planc.units import LONGEST_TIME_LIMIT


@dataclass(frozen=True)
class CompileOptions:
    """How to compile. `budget` is a size (`8GiB`, `60%` of the liveness peak, `min`, `process:200MiB` for all
    that a process takes on the CPU); None takes 90 % of the memory
    that the cost table's device had free. `host_memory` is a size of the same kind, the most that the plan's host slab
    may take; None sets no limit.

    A solve ends when its gap is at most `gap`, a fraction; None leaves it to the solver when more time is not worth it.
    With `deterministic` the time limit is kept in work that is counted, on one thread, and plans made before play no
    part: the same input gives the same plan, byte for byte. With `what_if` a tenth of the limit goes to budgets a tenth
    smaller and larger."""

    budget: str | None = None
    solver: str = "mip"
    time_limit_s: float = 60.0
    seed: int = 0
    host_memory: str | None = None
    gap: float | None = None
    deterministic: bool = False
    what_if: bool = False
    on_progress: Callable[[Progress], None] = field(default=lambda _: None)

    def __post_init__(self) -> None:
        """Raises UsageError for a time limit or gap that is no number within its range."""
        if not 0 <= self.time_limit_s <= LONGEST_TIME_LIMIT:
            raise UsageError(f"time limit {self.time_limit_s}: expected 0 to {LONGEST_TIME_LIMIT:.0f} seconds")
        if self.gap is not None and not 0 <= self.gap < 1:
            raise UsageError(f"gap {self.gap}: expected a fraction from 0 to 1, below 1")


@dataclass(frozen=True)
class Compilation:
    """A verified plan with what it was made from. `repairs` counts how often packing missed and the problem was
    narrowed."""

    plan: p.Plan
    planning: PlanningProblem
    solution: Solution
    repairs: int
