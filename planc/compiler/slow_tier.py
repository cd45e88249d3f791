"""Refuses a file as host tier where its disk is too slow to help."""

from dataclasses import replace

from planc.costs.table import CostTable, Link
from planc.enums import HostTierKind
from planc.planning.build import PlanningProblem
from planc.units import format_bytes, format_ns

_LEAST_PERCENT = 1
"""Of the liveness peak: what the disk has to move out and back while a step computes."""

_PIECE = 16 << 20
"""Bytes of a copy whose rate counts."""


def slow_tier(costs: CostTable, planning: PlanningProblem) -> str:
    """Why nothing is to be swapped, empty where the disk helps: what it moves in the time of a step is not worth having."""
    step, peak = planning.problem.least_duration_ns, planning.liveness_peak_bytes
    moved = moved_bytes(costs.link, step)
    if costs.link.tier is not HostTierKind.FILE or moved * 100 >= peak * _LEAST_PERCENT:
        return ""
    return (
        f"nothing is swapped: the disk of the host tier moves {format_bytes(moved)} in the {format_ns(step)} that a step "
        f"computes, less than {_LEAST_PERCENT} % of the peak of {format_bytes(peak)}; name a folder on a faster disk "
        "(--host-tier file:FOLDER) and measure again"
    )


def moved_bytes(link: Link, duration_ns: int) -> int:
    """Bytes that go out and come back within a duration, both directions at once."""
    return _PIECE * duration_ns // max(1, *link.copy_ns(_PIECE))


def without_swaps(planning: PlanningProblem) -> PlanningProblem:
    """The problem with no room on the host."""
    return replace(planning, problem=replace(planning.problem, host_budget_bytes=0))
