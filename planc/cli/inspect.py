"""`planc inspect`: what a plan comes to, on the terminal, as a page or as a trace."""

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from planc.cli.console import err, out, print_json
from planc.cli.known_models import known_model
from planc.cli.options import Json, Model, beside
from planc.cli.outputs import require_outputs
from planc.errors import PlanError, UsageError


def inspect(
    plan: Path,
    model: Model = None,
    tensor: Annotated[str | None, typer.Option(help="Show the life of this tensor.")] = None,
    at_peak: Annotated[bool, typer.Option("--at-peak", help="Show what is resident at the peak.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a page with pictures; it works offline.")] = None,
    trace: Annotated[Path | None, typer.Option(help="Write the predicted step as a trace for ui.perfetto.dev.")] = None,
    memory_snapshot: Annotated[
        Path | None, typer.Option(help="Write the predicted step as a snapshot for pytorch.org/memory_viz.")
    ] = None,
    json: Json = False,
) -> None:
    """Show what PLAN comes to: memory, time, proof, and its dearest decisions."""
    from planc.plan.plan import Plan
    from planc.report.inspection import find_graph, inspection_json
    from planc.report.memory_snapshot import write_memory_snapshot
    from planc.report.page import write_page
    from planc.report.summary import summarize
    from planc.report.tensor import life_of
    from planc.report.text import print_peak, print_summary, print_tensor
    from planc.report.trace import write_trace
    from planc.report.view import view_of

    loaded, source = Plan.load(plan), model
    with suppress(PlanError, UsageError):  # a plan can be looked at without its model
        source = beside(plan, loaded.model.file, loaded.model.hash, model)
    require_outputs((plan, source), {"--html": html, "--trace": trace, "--memory-snapshot": memory_snapshot})
    wanted = model is not None or tensor is not None or html is not None or not loaded.layers
    graph = find_graph(plan, loaded, model or known_model(loaded.model.hash)) if wanted else None
    view = view_of(loaded, graph)
    life = life_of(view, tensor, graph) if tensor is not None else None
    if html is not None:
        write_page(html, loaded, graph)
        err().print(f"wrote {html}", soft_wrap=True)
    if trace is not None:
        write_trace(trace, loaded, graph)
        err().print(f"wrote {trace}", soft_wrap=True)
    if memory_snapshot is not None:
        write_memory_snapshot(memory_snapshot, loaded, graph)
        err().print(f"wrote {memory_snapshot}", soft_wrap=True)
    summary = summarize(view)
    if json:
        print_json(inspection_json(view, summary, life, at_peak))
        return
    if life is not None:
        print_tensor(out(), view, life)
    if at_peak:
        print_peak(out(), view, summary.peak)
    if life is None and not at_peak:
        print_summary(out(), loaded, graph)
