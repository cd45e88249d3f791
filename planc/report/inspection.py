"""What `planc inspect` needs beside the pictures: the plan's graph where it can be had, and the JSON result."""

from pathlib import Path

from planc.errors import ModelError
from planc.files import below
from planc.graph.graph import Graph
from planc.importer.import_model import import_for
from planc.plan.plan import Plan
from planc.report.memory import Peak
from planc.report.summary import Summary, summary_json
from planc.report.tensor import TensorLife, life_json
from planc.report.view import PlanView
from planc.report.words import ending_of, origin_of


def find_graph(path: Path, plan: Plan, model: Path | None) -> Graph | None:
    """The graph of `model`, or of the file that the plan at `path` names, beside it, if it is there and is the one.

    Raises ModelError when a given model cannot be read; whether it is the plan's, `view_of` checks.
    """
    if model is not None:
        return import_for(model, plan.model.hash).graph
    try:
        beside = below(path.parent, plan.model.file)
        if not beside.is_file():
            return None
        graph = import_for(beside, plan.model.hash).graph
    except (ModelError, OSError):
        return None
    return graph if graph.content_hash == plan.model.hash else None


def inspection_json(view: PlanView, summary: Summary, life: TensorLife | None, at_peak: bool) -> dict[str, object]:
    """The summary; `tensor` with the life of one tensor and `at_peak` with the residencies at the peak where asked for."""
    result = summary_json(view, summary)
    if life is not None:
        result["tensor"] = life_json(view, life)
    if at_peak:
        result["at_peak"] = _peak_json(view, summary.peak)
    return result


def _peak_json(view: PlanView, peak: Peak) -> dict[str, object]:
    residencies = [
        {
            "storage": s.storage, "content": s.content.value, "bytes": s.bytes, "offset": s.offset,
            "from": origin_of(view, s), "until": ending_of(view, s),
        }
        for s in peak.residencies
    ]  # fmt: skip
    return {"slot": peak.slot, "layer": view.title(peak.run), "bytes": peak.bytes, "stays": residencies}
