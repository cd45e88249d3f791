"""`planc estimate`: what one training step needs, before any profiling."""

from pathlib import Path
from typing import Annotated

import typer

from planc.cli.console import out, print_json
from planc.cli.options import Costs, Device, Json, optimizer_of
from planc.errors import UsageError


def estimate(
    model: Annotated[str, typer.Argument(help="A training graph, or a network of the zoo.")],
    device: Device = "auto",
    costs: Costs = None,
    batch: Annotated[int | None, typer.Option(help="Examples per step, of a network of the zoo.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="Optimizer of a network of the zoo; momentum as usual.")] = None,
    json: Json = False,
) -> None:
    """Show what one step of MODEL needs: memory by kind, its peak, the smallest budget, and which cards hold it."""
    from planc.compiler.estimate import estimate_step
    from planc.report.estimate_text import print_estimate
    from planc.zoo import OPTIMIZER, ZooOptions, build_step, families

    if Path(model).exists():
        found = estimate_step(model, device, costs)
    elif model in families():
        step = build_step(model, ZooOptions(batch=batch), optimizer_of(optimizer or OPTIMIZER, None))
        found = estimate_step(step, device, costs)
    else:
        raise UsageError(f"{model}: no such file, and no network of the zoo (`planc zoo list` names them)")
    if json:
        print_json(found.as_json())
    else:
        print_estimate(out(), found, model)
