"""`planc compare`: solvers against each other within several budgets."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planc.cli.console import err, out, print_json, progress
from planc.cli.interrupts import interrupts_tell
from planc.cli.options import Costs, Device, Fuse, Json, Seed, TimeLimit
from planc.cli.outputs import require_outputs
from planc.units import format_bytes

if TYPE_CHECKING:
    from planc.report.comparison import Comparison


def compare_command(
    model: Path,
    budgets: Annotated[
        str | None, typer.Option(help="Sizes with commas between them: 80%,50%,min; else five down to min.")
    ] = None,
    solvers: Annotated[str, typer.Option(help="all, or names with commas between them.")] = "mip",
    device: Device = "auto",
    costs: Costs = None,
    time_limit: TimeLimit = 60.0,
    seed: Seed = 0,
    fuse: Fuse = True,
    jobs: Annotated[int, typer.Option(help="Solves at a time, each in a process of its own.", min=1)] = 1,
    run: Annotated[bool, typer.Option("--run", help="Run each plan too, beside the unplanned graph.")] = False,
    steps: Annotated[int, typer.Option(help="Training steps of each plan with --run.", min=1)] = 10,
    fresh: Annotated[bool, typer.Option("--fresh", help="Do not use what earlier comparisons found.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a page with the picture of memory against time.")] = None,
    json: Json = False,
) -> None:
    """Compile MODEL within several budgets, by several solvers if asked, and show what each plan costs."""
    from planc.compiler.request import CompileRequest
    from planc.report.comparison import compare, parse_budgets, parse_solvers
    from planc.report.page import write_comparison_page
    from planc.report.text import print_comparison
    from planc.report.trials import Effort

    sizes, names = None if budgets is None else parse_budgets(budgets), parse_solvers(solvers)
    require_outputs((model, costs), {"--html": html})
    with progress("profiling") as update:
        job = CompileRequest(model, device, costs, fuse, update).resolve()
    effort = Effort(time_limit, seed, jobs, steps if run else 0, not fresh)
    kept = "what was compared is kept, and the same command goes on from there"
    with interrupts_tell("nothing is kept" if fresh else kept), progress("comparing") as update:
        result = compare(job, sizes, names, effort, update)
    if html is not None:
        write_comparison_page(html, result.rows, model.name, result.liveness_peak_bytes)
        err().print(f"wrote {html}", soft_wrap=True)
    if json:
        print_json(result.as_json())
    else:
        print_comparison(out(), result)
        _print_next(model, result)


def _print_next(model: Path, result: "Comparison") -> None:
    """The point that the curve recommends, as a command."""
    row = result.recommended
    if row is not None:
        solver = "" if row.solver == "mip" else f" --solver {row.solver}"
        share = f"{100 * row.budget_bytes / result.liveness_peak_bytes:.0f} % of the peak"
        err().print(f"the knee of the curve is {format_bytes(row.budget_bytes)}, {share}", soft_wrap=True)
        err().print(f"next: planc compile {model} --budget {row.budget_bytes}B{solver}", soft_wrap=True)
