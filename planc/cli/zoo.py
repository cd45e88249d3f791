"""`planc zoo`: networks that planc can build itself."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from planc.cli.console import err, out, print_json, progress, report_written
from planc.cli.options import Forms, Json, optimizer_of
from planc.cli.outputs import require_outputs
from planc.importer.save import write_model, write_structure
from planc.zoo import ZooOptions, build_forward, build_step, families, summarize

zoo = typer.Typer(help="Networks that planc can build itself, as training graphs.", no_args_is_help=True)


@zoo.command("list")
def list_networks(json: Json = False) -> None:
    """Show every network that `planc zoo build` knows, with the size of its training step."""
    names = sorted(families())
    found = []
    with progress("building") as update:
        for done, name in enumerate(names):
            update(done, len(names), name)
            found.append(summarize(name))
    if json:
        print_json({"networks": [asdict(summary) for summary in found]})
        return
    table = Table("name")
    for heading in ("parameters", "operators", "layers"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("default batch")
    for row in found:
        counts = (f"{count:,}" for count in (row.parameters, row.operators, row.layers))
        table.add_row(row.name, *counts, _shapes(row.inputs))
    out().print(table)
    err().print("Operators and layers are those of the training step with plain SGD at the default size.")


def _shapes(inputs: Mapping[str, tuple[int, ...]]) -> str:
    """`input 32x3x224x224, labels 32`."""
    return ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in inputs.items())


@zoo.command("build")
def build(
    name: str,
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the training graph goes.")],
    batch: Annotated[int | None, typer.Option(help="Examples per step.")] = None,
    image: Annotated[int | None, typer.Option(help="Height and width of the images.")] = None,
    depth: Annotated[int | None, typer.Option(help="Layers or blocks.")] = None,
    width: Annotated[int | None, typer.Option(help="Channels or model width.")] = None,
    seq: Annotated[int | None, typer.Option(help="Tokens per sequence.")] = None,
    classes: Annotated[int | None, typer.Option(help="Classes, or vocabulary size.")] = None,
    optimizer: Annotated[str, typer.Option(help="sgd, momentum, adam or adamw.")] = "momentum",
    learning_rate: Annotated[
        float | None, typer.Option(help="Step size; the optimizer's usual one if not given.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the initial values.")] = 0,
    forward: Annotated[bool, typer.Option("--forward", help="Write the forward model only, for `planc grad`.")] = False,
    device: Forms = "cpu",
    zeros: Annotated[
        bool,
        typer.Option("--zeros", help="Leave initial values zero, in a sparse file: to plan what no disk can hold."),
    ] = False,
    json: Json = False,
) -> None:
    """Build the training step of network NAME: forward, backward and update in one graph of standard operators."""
    require_outputs((), {"-o": output})
    options = ZooOptions(batch, image, depth, width, seq, classes, seed)
    if forward:
        model = build_forward(name, options, not zeros).model
    else:
        model = build_step(name, options, optimizer_of(optimizer, learning_rate), device, not zeros)
    (write_structure if zeros else write_model)(model, output)
    report_written(model, output, json)
