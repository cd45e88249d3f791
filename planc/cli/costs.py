"""`planc costs`: what was profiled, for people."""

from pathlib import Path
from typing import Annotated

import typer

from planc.cli.console import out, print_json
from planc.cli.options import Json, Model, beside


def costs(
    table: Path,
    model: Model = None,
    every: Annotated[bool, typer.Option("--all", help="Show every layer, not only the slowest.")] = False,
    json: Json = False,
) -> None:
    """Show what each layer of a cost TABLE takes: to compute, to move to the host and back, and to make again."""
    from planc.compiler.job import CompileJob
    from planc.costs.store import read_costs
    from planc.importer.import_model import import_for
    from planc.planning.layer_costs import layer_reports
    from planc.report.costs_text import costs_json, print_costs

    costs = read_costs(table)
    imported = import_for(beside(table, costs.model_file, costs.model_hash, model), costs.model_hash)
    reports = layer_reports(CompileJob.of(imported, costs).usual.problem)
    if json:
        print_json(costs_json(costs, reports))
    else:
        print_costs(out(), costs, reports, every)
