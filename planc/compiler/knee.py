"""`--budget auto`: the knee of the curve of step time over memory, among budgets that the device has free.

The curve goes through plans at a few budgets, evenly spaced from the smallest feasible one to what the liveness peak
needs, or to 90 % of the free memory where that is less. Both axes are scaled to [0, 1]; the knee is the point farthest
below the straight line between the curve's ends (Satopaa, Albrecht, Irwin and Raghavan, Finding a "Kneedle" in a
Haystack, 2011). Where no plan is a hundredth slower than another, the knee is the smallest budget.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from planc.compiler.job import CompileJob
from planc.compiler.options import CompileOptions
from planc.errors import InfeasibleBudgetError, SolverTimeoutError
from planc.plan.curve import never_rising
from planc.plan.plan import CurvePoint

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class KneeSettings:
    """How the curve is drawn and read."""

    points: int = 7
    """Budgets that are planned for: more find the knee more closely, and leave each plan less time."""
    time_share: float = 0.5
    """Part of the time limit that the curve takes; the plan at its knee has the rest."""
    least_s: float = 0.5
    """Shortest useful time of one plan."""
    flat: float = 0.01
    """Where the slowest plan is slower than the fastest by no more than this part, memory buys nothing."""


SETTINGS = KneeSettings()


def curve(job: CompileJob, options: CompileOptions) -> tuple[CurvePoint, ...]:
    """Plans within budgets from the smallest to the one that needs no plan, smallest first; a larger budget is never
    slower. Raises InfeasibleBudgetError when the device has too little for the smallest, SolverTimeoutError when no
    plan was found."""
    least, most = job.budget_bytes("min", options.solver), min(job.budget_bytes(None), job.roomy_bytes)
    spread = sorted({least + (most - least) * i // (SETTINGS.points - 1) for i in range(SETTINGS.points)})
    budgets = spread if least <= most else [most]
    each = max(SETTINGS.least_s, options.time_limit_s * SETTINGS.time_share / len(budgets))
    points: list[CurvePoint] = []
    failed: InfeasibleBudgetError | SolverTimeoutError | None = None
    for budget in budgets:
        try:
            found = job.search(replace(options, budget=f"{budget}B", time_limit_s=each))
        except (InfeasibleBudgetError, SolverTimeoutError) as error:
            failed = error
            continue
        points.append(CurvePoint(budget, found.step_ns))
    if failed is not None and not points:
        raise failed
    return never_rising(points)


def knee(points: Sequence[CurvePoint]) -> CurvePoint:
    """The point farthest below the line between the ends; the first where the curve is flat."""
    first, last = points[0], points[-1]
    drop, width = first.step_ns - last.step_ns, last.budget_bytes - first.budget_bytes
    if width <= 0 or drop <= SETTINGS.flat * last.step_ns:
        return first

    def below(point: CurvePoint) -> float:
        along = (point.budget_bytes - first.budget_bytes) / width
        return (1 - along) - (point.step_ns - last.step_ns) / drop

    return max(points, key=below)
