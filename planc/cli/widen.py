"""`planc widen`: a training graph in half precision → one whose casts are nodes."""

from pathlib import Path
from typing import Annotated

import typer

from planc.cli.console import report_written
from planc.cli.options import Device, Json
from planc.cli.outputs import require_outputs


def widen_command(
    model: Path,
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the graph goes.")],
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Let MODEL compute in float32, between casts that are planned, where the device has no kernel in half precision."""
    from planc.api import widen
    from planc.importer.save import write_model

    require_outputs((model,), {"-o": output})
    made = widen(model, device=device)
    write_model(made, output)
    report_written([(made, output)], json)
