"""Whether a plan hangs together well enough to be shown. It may still be wrong: that is for `planc verify` to say."""

from collections.abc import Iterator

from planc.errors import PlanError
from planc.graph.graph import Role
from planc.plan.plan import LayerInfo, Plan

_LARGEST = 1 << 62
"""Bytes and nanoseconds up to here can be added up in 64 bits."""


def require_readable(plan: Plan, layers: tuple[LayerInfo, ...], roles: dict[str, str]) -> None:
    """Raise PlanError naming the first part of `plan` that refers to nothing, or whose numbers mean nothing."""
    for where in (*_references(plan, layers), *_numbers(plan), *_names(layers, roles)):
        raise PlanError(f"the plan cannot be shown: {where}; compile it again, or see `planc verify`")


def _references(plan: Plan, layers: tuple[LayerInfo, ...]) -> Iterator[str]:
    runs, copies, residencies = range(len(plan.runs)), range(len(plan.copies)), range(len(plan.residencies))
    if not plan.runs:
        yield "it runs no layer"
    for index, run in enumerate(plan.runs):
        if run.layer not in range(len(layers)):
            yield f"run {index} executes layer {run.layer} of {len(layers)}"
        if any(copy not in copies for copy in run.waits):
            yield f"run {index} waits for a copy that does not exist"
    for index, copy in enumerate(plan.copies):
        if copy.residency not in residencies or copy.after not in range(len(plan.runs) + 1):
            yield f"copy {index} moves a residency, or follows a run, that does not exist"
    for first, end in plan.segments:
        if first not in runs or end - 1 not in runs or first >= end:
            yield f"segment [{first}, {end}) is no range of its {len(plan.runs)} runs"


def _numbers(plan: Plan) -> Iterator[str]:
    predicted = plan.prediction
    if len(predicted.runs) != len(plan.runs) or len(predicted.copies) != len(plan.copies):
        yield "its prediction has other runs or copies than it executes"
    for start, end in (*predicted.runs, *predicted.copies):
        if not 0 <= start <= end <= _LARGEST:
            yield f"its prediction has an action from {start} to {end} ns"
    sizes = (*(residency.bytes for residency in plan.residencies), *(region.bytes for region in plan.scratch))
    offsets = (*(residency.offset for residency in plan.residencies), *(region.offset for region in plan.scratch))
    memory = plan.memory
    totals = (memory.budget_bytes, memory.slab_bytes, memory.scratch_bytes, memory.liveness_peak_bytes, memory.host_bytes,
              memory.host_limit_bytes or 0)  # fmt: skip
    for number in (*sizes, *offsets, *totals, *(copy.bytes for copy in plan.copies), predicted.step_ns):
        if not 0 <= number <= _LARGEST:
            yield f"{number} is no number of bytes or nanoseconds"
    for index, residency in enumerate(plan.residencies):
        if not 0 <= residency.begin < residency.end <= _LARGEST:
            yield f"residency {index} of {residency.storage!r} lasts from slot {residency.begin} to {residency.end}"


def _names(layers: tuple[LayerInfo, ...], roles: dict[str, str]) -> Iterator[str]:
    known = set(Role)
    for layer in layers:
        if not 0 < layer.operators <= _LARGEST:
            yield f"layer {layer.name!r} has {layer.operators} operators"
    for name, role in roles.items():
        if role not in known:
            yield f"input {name!r} has the unknown role {role!r}"
