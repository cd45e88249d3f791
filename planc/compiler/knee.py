"""`--budget auto`: the knee of the curve of step time over memory, among budgets that the device has free.

The curve goes through plans at a few budgets, evenly spaced from the smallest feasible one to what the liveness peak
needs, or to 90 % of the free memory where that is less. Both axes are scaled to [0, 1]; the knee is the point farthest
below the straight line between the curve's ends (Satopaa, Albrecht, Irwin and Raghavan, Finding a "Kneedle" in a
Haystack, 2011). Where no plan is a hundredth slower than another, the knee is the smallest budget.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from planc.compiler.job import CompileJob
from planc.compiler.options import Compilation, CompileOptions
from planc.errors import InfeasibleBudgetError, SolverTimeoutError

AUTO = "auto"

_POINTS = 7
_SHARE = 0.5
"""Part of the time limit that the curve takes; the plan at its knee has the rest."""

_LEAST_S = 0.5
_FLAT = 0.01


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """A budget (bytes) and the predicted step (ns) within it."""

    budget_bytes: int
    step_ns: int


def curve(job: CompileJob, options: CompileOptions) -> tuple[CurvePoint, ...]:
    """Plans within budgets from the smallest to the one that needs no plan, smallest first; a larger budget is never
    slower. Raises InfeasibleBudgetError when the device has too little for the smallest, SolverTimeoutError when no
    plan was found."""
    least, most = job.budget_bytes("min", options.solver), min(job.budget_bytes(None), job.roomy_bytes)
    spread = sorted({least + (most - least) * i // (_POINTS - 1) for i in range(_POINTS)})
    budgets = spread if least <= most else [most]
    each = max(_LEAST_S, options.time_limit_s * _SHARE / len(budgets))
    points: list[CurvePoint] = []
    failed: InfeasibleBudgetError | SolverTimeoutError | None = None
    for budget in budgets:
        try:
            plan = job.compile(replace(options, budget=f"{budget}B", time_limit_s=each)).plan
        except (InfeasibleBudgetError, SolverTimeoutError) as error:
            failed = error
            continue
        best = min([plan.prediction.step_ns, *(point.step_ns for point in points)])
        points.append(CurvePoint(budget, best))
    if failed is not None and not points:
        raise failed
    return tuple(points)


def knee(points: Sequence[CurvePoint]) -> CurvePoint:
    """The point farthest below the line between the ends; the first where the curve is flat."""
    first, last = points[0], points[-1]
    drop, width = first.step_ns - last.step_ns, last.budget_bytes - first.budget_bytes
    if width <= 0 or drop <= _FLAT * last.step_ns:
        return first

    def below(point: CurvePoint) -> float:
        along = (point.budget_bytes - first.budget_bytes) / width
        return (1 - along) - (point.step_ns - last.step_ns) / drop

    return max(points, key=below)


def compile_within(
    job: CompileJob,
    options: CompileOptions,
    on_curve: Callable[[tuple[CurvePoint, ...], CurvePoint], None] = lambda *_: None,
) -> Compilation:
    """Compile within the budget that the options name, `auto` included: `on_curve` then gets the curve and its knee.

    Raises what `CompileJob.compile` raises.
    """
    if options.budget != AUTO:
        return job.compile(options)
    points = curve(job, options)
    chosen = knee(points)
    on_curve(points, chosen)
    left = max(_LEAST_S, options.time_limit_s * (1 - _SHARE))
    return job.compile(replace(options, budget=f"{chosen.budget_bytes}B", time_limit_s=left))
