"""The curve of step time over memory on the terminal, its knee marked."""

from collections.abc import Sequence

from rich.console import Console

from planc.plan.plan import CurvePoint
from planc.units import format_bytes, format_ns

_WIDTH = 40


def print_curve(console: Console, points: Sequence[CurvePoint], knee: CurvePoint) -> None:
    """A bar for the step within each budget, as long as it is slower than the fastest."""
    fastest = min(point.step_ns for point in points)
    spread = max(point.step_ns for point in points) - fastest
    for point in points:
        length = round(_WIDTH * (point.step_ns - fastest) / spread) if spread else 0
        mark = " <- auto" if point == knee else ""
        console.print(
            f"{format_bytes(point.budget_bytes):>10}  {format_ns(point.step_ns):>10}  {'█' * max(1, length)}{mark}"
        )
