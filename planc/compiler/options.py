"""How to compile, and what comes of it."""

from collections.abc import Callable
from dataclasses import dataclass, field

from planc.plan import plan as p
from planc.planning.build import PlanningProblem
from planc.schedule.solver import Progress, Solution


@dataclass(frozen=True)
class CompileOptions:
    """How to compile. `budget` is a size (`8GiB`, `60%` of the liveness peak, `min`); None takes 90 % of the memory
    that the cost table's device had free. `host_memory` is a size of the same kind, the most that the plan's host slab
    may take; None sets no limit.

    A solve ends when its gap is at most `gap`, a fraction; None leaves it to the solver when more time is not worth it.
    With `deterministic` the time limit is kept in work that is counted, on one thread, and plans made before play no
    part: the same input gives the same plan, byte for byte."""

    budget: str | None = None
    solver: str = "mip"
    time_limit_s: float = 60.0
    seed: int = 0
    host_memory: str | None = None
    gap: float | None = None
    deterministic: bool = False
    on_progress: Callable[[Progress], None] = field(default=lambda _: None)


@dataclass(frozen=True)
class Compilation:
    """A verified plan with what it was made from. `repairs` counts how often packing missed and the problem was
    narrowed."""

    plan: p.Plan
    planning: PlanningProblem
    solution: Solution
    repairs: int
