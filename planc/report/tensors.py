"""One row for each tensor that outlives a layer: what the plan decided about it and what that costs."""

from collections import defaultdict
from dataclasses import dataclass

from planc.report.decisions import Decision, Kind, decisions_of
from planc.report.view import Content, PlanView, ResidencyView

KEEP = "keep"
"""The decision for a tensor that is neither moved nor made again."""


@dataclass(frozen=True, slots=True)
class TensorRow:
    """A storage with its decision (`keep`, or Kinds). Times are as in `Decision`; `held_ns` is its time in the slab."""

    storage: str
    content: str
    decision: str
    bytes: int
    made_by: str
    residencies: int
    held_ns: int
    copy_ns: int
    hidden_ns: int
    cost_ns: int


def tensor_rows(view: PlanView, decisions: tuple[Decision, ...] | None = None) -> tuple[TensorRow, ...]:
    """Every storage that outlives the run which makes it; the dearest first, then the largest."""
    known = decisions_of(view) if decisions is None else decisions
    moved = {d.name: d for d in known if d.kind is not Kind.RECOMPUTE}
    residencies: defaultdict[str, list[ResidencyView]] = defaultdict(list)
    for residency in view.residencies:
        if residency.content is not Content.TEMPORARY:
            residencies[residency.storage].append(residency)
    rows = [_row(view, storage, found, moved.get(storage)) for storage, found in residencies.items()]
    return tuple(sorted(rows, key=lambda r: (-r.cost_ns, -r.copy_ns, -r.bytes, r.storage)))


def _row(view: PlanView, storage: str, residencies: list[ResidencyView], move: Decision | None) -> TensorRow:
    runs = view.plan.prediction.runs
    again = {s.maker for s in residencies if s.maker is not None and view.is_repeat[s.maker]}
    maker = view.makers.get(storage)
    kinds = [k for k, used in ((move.kind if move else KEEP, move is not None), (Kind.RECOMPUTE, bool(again))) if used]
    return TensorRow(
        storage=storage,
        content=residencies[0].content.value,
        decision=" + ".join(kinds) or KEEP,
        bytes=residencies[0].bytes,
        made_by="" if maker is None else view.title(maker),
        residencies=len(residencies),
        held_ns=sum(s.end_ns - s.begin_ns for s in residencies),
        copy_ns=move.copy_ns if move else 0,
        hidden_ns=move.hidden_ns if move else 0,
        cost_ns=(move.stall_ns if move else 0) + sum(runs[r][1] - runs[r][0] for r in again),
    )
