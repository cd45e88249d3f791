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


def compare_command(
    model: Path,
    budgets: Annotated[str, typer.Option(help="Sizes with commas between them: 80%,50%,4GiB,min.")],
    solvers: Annotated[str, typer.Option(help="all, or names with commas between them.")] = "all",
    device: Device = "auto",
    costs: Costs = None,
    time_limit: TimeLimit = 60.0,
    seed: Seed = 0,
    fuse: Fuse = True,
    html: Annotated[Path | None, typer.Option(help="Write a page with the plot of overhead over budget.")] = None,
    json: Json = False,
) -> None:
    """Compile MODEL with every solver within every budget and show what each plan costs."""
    require_outputs((model, costs), {"--html": html})
    sizes, names = parse_budgets(budgets), parse_solvers(solvers)
    with progress("profiling") as update:
        job = CompileRequest(model, device, costs, fuse, update).resolve()
    with progress("comparing") as update:
        result = compare(job, sizes, names, time_limit, seed, update)
    if html is not None:
        write_comparison_page(html, result.rows, model.name, result.liveness_peak_bytes)
        err().print(f"wrote {html}", soft_wrap=True)
    if json:
        print_json(result.as_json())
    else:
        print_comparison(out(), result)
