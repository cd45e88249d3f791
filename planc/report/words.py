"""What a plan comes to, in words and numbers: the lines that the terminal and the page share."""

from collections import Counter

from planc.report.summary import Summary
from planc.report.view import PlanView, ResidencyView
from planc.schedule.solver import OPTIMAL_GAP
from planc.units import format_bytes, format_ns


def percent(share: float, *, signed: bool = False) -> str:
    """`0.0123` → `1.23 %`; three digits or fewer, `+` in front of a gain when `signed`."""
    value = 100 * share
    digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:{'+' if signed else ''}.{digits}f} %"


def plural(count: int, noun: str) -> str:
    """`1 copy`, `2 copies`, `3 layers`."""
    if count == 1:
        return f"1 {noun}"
    return f"{count:,} {noun[:-1]}ies" if noun.endswith(("py", "cy")) else f"{count:,} {noun}s"


def facts(view: PlanView, summary: Summary) -> list[tuple[str, str]]:
    """Label and sentence for each headline, in reading order."""
    return [*_origin(view), *_memory(view, summary), *_time(view, summary), *_movement(view, summary)]


def _origin(view: PlanView) -> list[tuple[str, str]]:
    model, costs = view.plan.model, view.plan.costs
    estimated = "; times are estimated, not measured" if costs.estimated else ""
    size = f"{plural(model.layers, 'layer')}, {plural(model.operators, 'operator')}"
    return [
        ("model", f"{model.file or 'unnamed'}, {size}"),
        ("device", f"{costs.table} ({costs.kind}{estimated})"),
    ]


def _memory(view: PlanView, summary: Summary) -> list[tuple[str, str]]:
    memory, peak = view.plan.memory, summary.peak
    share = memory.budget_bytes / memory.liveness_peak_bytes if memory.liveness_peak_bytes else 0.0
    used = f"slab {format_bytes(memory.slab_bytes)} + scratch {format_bytes(memory.scratch_bytes)}"
    used += f" + sessions {format_bytes(memory.session_bytes)}" if memory.session_bytes else ""
    total = memory.slab_bytes + memory.scratch_bytes + memory.session_bytes
    return [
        (
            "budget",
            f"{format_bytes(memory.budget_bytes)}, {percent(share)} of the liveness peak "
            f"{format_bytes(memory.liveness_peak_bytes)}",
        ),
        ("used", f"{used} = {format_bytes(total)}"),
        (
            "peak",
            f"{format_bytes(peak.bytes)} resident in {view.title(peak.run)}; "
            f"{percent(1 - peak.bytes / memory.slab_bytes if memory.slab_bytes else 0.0)} of the slab lost to gaps",
        ),
        ("minimum", f"{format_bytes(memory.minimum_budget_bytes)}, set by {memory.minimum_layer}"),
    ]


def _time(view: PlanView, summary: Summary) -> list[tuple[str, str]]:
    prediction, proof = view.plan.prediction, view.plan.certificate
    return [
        (
            "step",
            f"{format_ns(prediction.step_ns)} predicted, {percent(summary.overhead, signed=True)} on "
            f"{format_ns(prediction.unconstrained_step_ns)} with unlimited memory",
        ),
        (
            "proof",
            f"{proven(proof.gap)}: no plan is faster than {format_ns(proof.lower_bound_ns)}, over {proof.bound_scope}",
        ),
        ("solver", f"{proof.solver}, {proof.solve_s:.1f} s, limit {proof.time_limit_s:g} s a solve, seed {proof.seed}"),
    ]


def proven(gap: float) -> str:
    """How good a plan is, by its gap to the bound."""
    return "the best possible" if gap <= OPTIMAL_GAP else f"within {percent(gap)} of the best possible"


def _movement(view: PlanView, summary: Summary) -> list[tuple[str, str]]:
    copies, memory = summary.copies, view.plan.memory
    found = []
    if copies.count:
        found.append(
            (
                "copies",
                f"{plural(copies.count, 'copy')}, {format_bytes(copies.bytes)} "
                f"({format_bytes(summary.swapped_bytes)} out), {percent(summary.hidden_share)} of their time "
                f"behind compute; host {format_bytes(memory.host_bytes)}"
                + (f" of {format_bytes(memory.host_limit_bytes)}" if memory.host_limit_bytes is not None else ""),
            )
        )
    if summary.recomputed_layers:
        repeats = plural(summary.recomputed_layers, "layer")
        found.append(("recompute", f"{repeats} run again, {format_ns(summary.recompute_ns)}"))
    forms = Counter(run.form for run in view.plan.runs if run.form)
    if forms:
        found.append(("forms", ", ".join(f"{plural(count, 'run')} in {name}" for name, count in sorted(forms.items()))))
    if not found:
        return [("moves", "nothing is copied or recomputed")]
    parts = {"stalls": summary.stall_ns, "recomputation": summary.recompute_ns, "contention": summary.slowdown_ns}
    extra = ", ".join(f"{format_ns(value)} {name}" for name, value in parts.items() if value > 0)
    return [*found, ("overhead", extra or "none")]


def origin_of(view: PlanView, residency: ResidencyView) -> str:
    """What brings the bytes of a residency there: a layer, a copy, or the state of affairs before the step."""
    if residency.maker is not None:
        return view.title(residency.maker)
    if residency.brought_by is not None:
        return f"copy {residency.brought_by} in"
    return "step begins" if residency.begin == 0 else "last step"


def ending_of(view: PlanView, residency: ResidencyView) -> str:
    """The last layer during which a residency holds its bytes, and what ends it there besides the last reading."""
    if residency.end >= view.slots:
        return "step ends"
    last = view.title(view.run_at(max(residency.begin, residency.end - 1)))
    if residency.taken_over_by is not None and view.residencies[residency.taken_over_by].storage != residency.storage:
        return f"{view.title(view.run_at(residency.end))}, in place"
    return ", ".join([last, *(f"copy {copy} out" for copy in residency.copied_out_by)])
