"""`planc profile`: measure a model's layers and the copies on this machine, or estimate them for a known card."""

from pathlib import Path
from typing import Annotated

import typer

from planc.cli.console import err, print_json, progress
from planc.cli.known_models import remember_model
from planc.cli.options import Device, Fuse, HostTier, Json
from planc.cli.outputs import require_outputs
from planc.units import format_ns


def profile(
    model: Path,
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the cost table goes.")],
    device: Device = "auto",
    forms: Annotated[
        bool,
        typer.Option("--forms", help="Measure other forms of convolutions too; a plan may then choose other bits."),
    ] = False,
    fuse: Fuse = True,
    host_tier: HostTier = None,
    json: Json = False,
) -> None:
    """Measure every layer of MODEL, its scratch memory, and the copies to the host tier."""
    import msgspec

    from planc.costs.store import write_costs
    from planc.profiling.cache import fresh_costs
    from planc.profiling.target import import_to_run_on

    require_outputs((model,), {"-o": output})
    imported = import_to_run_on(model, device, fuse)
    with progress("profiling") as update:
        table = fresh_costs(imported, device, update, forms, host_tier)
    write_costs(msgspec.structs.replace(table, model_file=model.name), output)
    remember_model(model, output, table.model_hash)
    total = sum(table.layer(i).compute_ns for i in range(len(table.layers)))
    if json:
        print_json({"costs": str(output), "layers": len(table.layers), "distinct": len(table.unique), "step_ns": total})
    else:
        err().print(f"{output}: {len(table.layers)} layers, {len(table.unique)} distinct, {format_ns(total)} a step")
