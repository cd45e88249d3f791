"""The headline numbers of a plan, one place for text, page and JSON."""

from dataclasses import asdict, dataclass

from planc.enums import Direction
from planc.report.decisions import Decision, Kind, decisions_of
from planc.report.memory import Peak, peak_of
from planc.report.view import PlanView


@dataclass(frozen=True)
class Traffic:
    """The copies of one direction: how many, their bytes, their time and the part of it that compute hides."""

    count: int
    bytes: int
    copy_ns: int
    hidden_ns: int


@dataclass(frozen=True)
class Summary:
    """What a plan comes to. `overhead` is relative to the unconstrained step.

    `swapped_bytes` are those copied to the host in a step. `recomputed_layers` counts repeated runs. The step is the
    unconstrained one plus `stall_ns` (compute waits), `recompute_ns` (repeated runs) and `slowdown_ns` (what the first
    runs lose to copies beside them and to segment boundaries).
    """

    overhead: float
    swapped_bytes: int
    recomputed_layers: int
    recompute_ns: int
    stall_ns: int
    slowdown_ns: int
    copies: Traffic
    hidden_share: float
    peak: Peak
    decisions: tuple[Decision, ...]


def summarize(view: PlanView) -> Summary:
    """The numbers of a resolved plan."""
    plan = view.plan
    decisions = decisions_of(view)
    moves = [d for d in decisions if d.kind is not Kind.RECOMPUTE]
    repeats = [d for d in decisions if d.kind is Kind.RECOMPUTE]
    copies = Traffic(
        count=len(plan.copies),
        bytes=sum(d.bytes for d in moves),
        copy_ns=sum(d.copy_ns for d in moves),
        hidden_ns=sum(d.hidden_ns for d in moves),
    )
    base, stall = plan.prediction.unconstrained_step_ns, plan.prediction.stall_ns
    recompute = sum(d.compute_ns for d in repeats)
    return Summary(
        overhead=(plan.prediction.step_ns - base) / base if base else 0.0,
        swapped_bytes=sum(copy.bytes for copy in plan.copies if copy.direction is Direction.OUT),
        recomputed_layers=sum(d.count for d in repeats),
        recompute_ns=recompute,
        stall_ns=stall,
        slowdown_ns=plan.prediction.step_ns - base - stall - recompute,
        copies=copies,
        hidden_share=copies.hidden_ns / copies.copy_ns if copies.copy_ns else 1.0,
        peak=peak_of(view),
        decisions=decisions,
    )


def summary_json(view: PlanView, summary: Summary) -> dict[str, object]:
    """The summary as one JSON object, field names as in `planc compile --json`."""
    plan, memory, certificate = view.plan, view.plan.memory, view.plan.certificate
    return {
        "model": plan.model.file,
        "model_hash": plan.model.hash,
        "device": plan.costs.device,
        "costs": plan.costs.table,
        "estimated": plan.costs.estimated,
        "status": certificate.status,
        "solver": certificate.solver,
        "budget_bytes": memory.budget_bytes,
        "slab_bytes": memory.slab_bytes,
        "scratch_bytes": memory.scratch_bytes,
        "slab_scratch_bytes": memory.slab_scratch_bytes,
        "scratch_placement": "slab" if plan.scratch else "arena",
        "host_bytes": memory.host_bytes,
        "host_limit_bytes": memory.host_limit_bytes,
        "peak_bytes": summary.peak.bytes,
        "peak_layer": view.title(summary.peak.run),
        "liveness_peak_bytes": memory.liveness_peak_bytes,
        "minimum_budget_bytes": memory.minimum_budget_bytes,
        "minimum_layer": memory.minimum_layer,
        "predicted_step_ns": plan.prediction.step_ns,
        "unconstrained_step_ns": plan.prediction.unconstrained_step_ns,
        "overhead": summary.overhead,
        "stall_ns": plan.prediction.stall_ns,
        "lower_bound_ns": certificate.lower_bound_ns,
        "bound_scope": certificate.bound_scope,
        "gap": certificate.gap,
        "solve_s": certificate.solve_s,
        "layers": plan.model.layers,
        "segments": len(plan.segments),
        "swapped_bytes": summary.swapped_bytes,
        "recomputed_layers": summary.recomputed_layers,
        "recompute_ns": summary.recompute_ns,
        "slowdown_ns": summary.slowdown_ns,
        "copies": asdict(summary.copies),
        "hidden_share": summary.hidden_share,
        "curve": [{"budget_bytes": p.budget_bytes, "step_ns": p.step_ns} for p in plan.curve],
        "decisions": [{**asdict(d), "cost_ns": d.cost_ns} for d in summary.decisions],
    }
