"""What a budget means in bytes, and the planning problems that it is shared by."""

import math
from dataclasses import replace

from planc.costs.table import CostTable
from planc.devices import find_device
from planc.errors import UsageError
from planc.graph.graph import Graph
from planc.planning.build import PlanningProblem, build_problem, least_arena_bytes
from planc.units import align_up, parse_size

_ARENA_SLACK = 4096
"""Bytes added to the largest scratch of a layer: the arena rounds each allocation of a kernel up to 256 bytes."""


_FEW = 1000
"""A budget without a unit below this is no number of bytes that anyone means."""

Budget = str | float | int | None
"""A size (`8GiB`, `60%` of the liveness peak, `min`, `max`), a share of the liveness peak as a float, bytes as an int, or
None for 90 % of what the device had free."""


def budget_text(budget: Budget) -> str | None:
    """A budget as commands write it. Raises UsageError for a number that is none."""
    if budget is None or isinstance(budget, str):
        return budget
    if isinstance(budget, bool) or not (math.isfinite(budget) and budget > 0):
        raise UsageError(
            f"budget {budget!r}: expected a share such as 0.5, a number of bytes, or a size such as '8GiB'"
        )
    if isinstance(budget, float):
        return f"{100 * budget:.10f}%"
    return f"{budget}B"


def budget_bytes(text: str | None, planning: PlanningProblem, costs: CostTable) -> int:
    """Bytes meant by a budget as `CompileOptions` takes it, other than `min`. Raises UsageError when it cannot be read."""
    if text is None:
        return costs.device.memory_bytes * 9 // 10
    if text == "max":
        return costs.device.memory_bytes
    bare = text.strip()
    if bare.replace(".", "", 1).isdecimal() and float(bare) < _FEW:
        raise UsageError(f"budget {text!r}: which unit? Write {bare}% or {bare}GiB, or {bare}B for bytes")
    size = parse_size(text, planning.liveness_peak_bytes)
    return size + costs.exchange_bytes if "%" in text else size  # a share is of what a plan can change


def arena_bytes_of(planning: PlanningProblem) -> int:
    """Bytes of the arena beside the slab."""
    if planning.layer_scratch:
        return 0
    return align_up(planning.scratch_bytes + _ARENA_SLACK, _ARENA_SLACK)


def on_host(planning: PlanningProblem, host_memory: str | None) -> PlanningProblem:
    """`planning` with the host limit meant by `host_memory`. Raises UsageError when it cannot be read."""
    if host_memory is None:
        return planning
    limit = parse_size(host_memory, planning.liveness_peak_bytes)
    if planning.problem.host_budget_bytes is not None:
        limit = min(limit, planning.problem.host_budget_bytes)
    return replace(planning, problem=replace(planning.problem, host_budget_bytes=limit))


def planning_problems(graph: Graph, costs: CostTable) -> tuple[PlanningProblem, ...]:
    """The problems of which `compile_model` takes the one with the fastest plan.

    Where scratch lies in an arena beside the slab and layers have leaner forms, a second one has the smallest arena.
    """
    usual = planning_problem(graph, costs)
    if usual.layer_scratch or not any(cost.alternatives for cost in costs.unique):
        return (usual,)
    lean = build_problem(graph, costs, arena_bytes=least_arena_bytes(graph, costs))
    return (usual, lean) if lean.scratch_bytes < usual.scratch_bytes else (usual,)


def planning_problem(graph: Graph, costs: CostTable) -> PlanningProblem:
    """The first problem that `compile_model` solves: with scratch in the slab where the device's runtime can place it."""
    return build_problem(graph, costs, scratch_in_slab=_places_scratch(costs))


def _places_scratch(costs: CostTable) -> bool:
    found = find_device(costs.device.kind)
    return found is not None and found[0].places_scratch()
