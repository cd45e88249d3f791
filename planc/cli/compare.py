"""`planc compare`: solvers against each other within several budgets."""

from pathlib import Path
from typing import Annotated

import typer

from planc.cli.console import err, out, print_json, progress
from planc.cli.options import Costs, Device, Json, Seed, TimeLimit
from planc.costs.cache import costs_for
from planc.costs.files import read_costs
from planc.importer.build import import_model
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
    html: Annotated[Path | None, typer.Option(help="Write a page with the plot of overhead over budget.")] = None,
    json: Json = False,
) -> None:
    """Compile MODEL with every solver within every budget and show what each plan costs."""
    sizes, names = parse_budgets(budgets), parse_solvers(solvers)
    imported = import_model(model)
    with progress("profiling") as update:
        table = read_costs(costs) if costs is not None else costs_for(imported, device, update)
    with progress("comparing") as update:
        result = compare(imported, table, sizes, names, time_limit, seed, update)
    if html is not None:
        write_comparison_page(html, result.rows, model.name, result.liveness_peak_bytes)
        err().print(f"wrote {html}", soft_wrap=True)
    if json:
        print_json(result.as_json())
    else:
        print_comparison(out(), result)
