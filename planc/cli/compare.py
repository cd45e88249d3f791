"""`planc compare`: solvers against each other within several budgets."""

from pathlib import Path
from typing import Annotated

import typer

from planc.cli.console import err, out, print_json, progress
from planc.cli.options import Costs, Device, Fuse, Json, Seed, TimeLimit
from planc.cli.outputs import require_outputs
from planc.compiler.request import CompileRequest
from planc.report.comparison import compare, parse_budgets, parse_solvers
from planc.report.page import write_comparison_page
from planc.report.text import print_comparison
from planc.report.trials import Effort


def compare_command(
    model: Path,
    budgets: Annotated[str, typer.Option(help="Sizes with commas between them: 80%,50%,4GiB,min.")],
    solvers: Annotated[str, typer.Option(help="all, or names with commas between them.")] = "all",
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
    """Compile MODEL with every solver within every budget and show what each plan costs."""
    sizes, names = parse_budgets(budgets), parse_solvers(solvers)
    require_outputs((model, costs), {"--html": html})
    with progress("profiling") as update:
        job = CompileRequest(model, device, costs, fuse, update).resolve()
    effort = Effort(time_limit, seed, jobs, steps if run else 0, not fresh)
    with progress("comparing") as update:
        result = compare(job, sizes, names, effort, update)
    if html is not None:
        write_comparison_page(html, result.rows, model.name, result.liveness_peak_bytes)
        err().print(f"wrote {html}", soft_wrap=True)
    if json:
        print_json(result.as_json())
    else:
        print_comparison(out(), result)
