"""The curve of step time over memory, as plans carry it."""

from collections.abc import Iterable

from planc.plan.plan import CurvePoint


def never_rising(points: Iterable[CurvePoint]) -> tuple[CurvePoint, ...]:
    """One point for each budget, smallest first: what a smaller budget reaches, a larger one does too."""
    found: list[CurvePoint] = []
    for point in sorted(points, key=lambda p: (p.budget_bytes, p.step_ns)):
        step = min(point.step_ns, found[-1].step_ns) if found else point.step_ns
        if not found or point.budget_bytes > found[-1].budget_bytes:
            found.append(CurvePoint(point.budget_bytes, step))
    return tuple(found)


def tenth_less_and_more(budget_bytes: int) -> tuple[int, int]:
    """The budgets that a plan is compared with."""
    return budget_bytes * 9 // 10, budget_bytes * 11 // 10
