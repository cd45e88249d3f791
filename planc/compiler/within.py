"""Compile within the budget that is asked for, `auto` included, and see what a tenth less or more memory would do.

The plan that is wanted has most of the time limit. What is left when it is made goes to the two other budgets; where that
is too little for a search, they are not tried, and the plan says nothing of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from planc.clock import WALL
from planc.compiler.job import CompileJob
from planc.compiler.knee import AUTO, curve, knee
from planc.compiler.knee import SETTINGS as KNEE
from planc.compiler.options import Compilation, CompileOptions
from planc.errors import InfeasibleBudgetError, SolverTimeoutError
from planc.plan.curve import never_rising, tenth_less_and_more
from planc.plan.plan import CurvePoint
from planc.schedule.simulate import unlimited_ns


@dataclass(frozen=True, slots=True)
class WhatIfSettings:
    """How the two budgets beside the wanted one are tried."""

    time_share: float = 0.05
    """Part of the time limit for each: more makes their steps truer, and leaves the plan less time."""
    late_share: float = 0.5
    """Part for each of the time that a plan may be late: they are tried where the wanted one was not."""
    least_s: float = 0.25
    """Shortest useful time of one."""


SETTINGS = WhatIfSettings()

Curve = tuple[CurvePoint, ...]


def compile_within(
    job: CompileJob, options: CompileOptions, on_curve: Callable[[Curve, CurvePoint], None] = lambda *_: None
) -> Compilation:
    """Compile within the budget that the options name, `auto` included: `on_curve` then gets the curve and its knee.

    Raises what `CompileJob.compile` raises.
    """
    points: Curve = ()
    if options.budget == AUTO:
        points = curve(job, options)
        chosen = knee(points)
        on_curve(points, chosen)
        left = max(KNEE.least_s, options.time_limit_s * (1 - KNEE.time_share))
        options = replace(options, budget=f"{chosen.budget_bytes}B", time_limit_s=left)
    return _with_neighbours(job, options, points) if options.what_if else job.compile(options)


def _with_neighbours(job: CompileJob, options: CompileOptions, points: Curve) -> Compilation:
    each = SETTINGS.time_share * options.time_limit_s
    kept = 2 * each if each >= SETTINGS.least_s else 0.0
    ends = WALL.now() + options.time_limit_s
    result = job.search(replace(options, time_limit_s=options.time_limit_s - kept))
    known = CurvePoint(result.budget_bytes, result.step_ns)
    tried = [*points, known]
    budgets = tenth_less_and_more(result.budget_bytes)
    for left, budget in zip((2, 1), budgets, strict=True):
        # Seconds decide nothing where work is counted.
        seconds = kept / 2 if options.deterministic else min(max(each, SETTINGS.least_s), (ends - WALL.now()) / left)
        tried += _step_within(job, options, budget, seconds, known)
    if not options.deterministic:
        result = job.recalled(result, options)
    return job.finish(replace(result, curve=never_rising(tried)), options)


def _step_within(
    job: CompileJob, options: CompileOptions, budget: int, seconds: float, known: CurvePoint
) -> Sequence[CurvePoint]:
    """The point of a budget, or nothing where no plan is found in the time: a `known` plan for less is one for more."""
    if budget >= job.roomy_bytes:
        return [CurvePoint(budget, unlimited_ns(job.usual.problem))]
    if budget < job.least_bytes or seconds < SETTINGS.least_s:
        return []
    try:
        quiet = replace(options, budget=f"{budget}B", time_limit_s=seconds, on_progress=lambda _: None)
        return [CurvePoint(budget, job.search(quiet, SETTINGS.late_share).step_ns)]
    except (InfeasibleBudgetError, SolverTimeoutError):
        return [CurvePoint(budget, known.step_ns)] if budget >= known.budget_bytes else []
