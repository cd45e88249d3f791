"""`planc zoo`: networks that planc can build itself."""

from pathlib import Path
from typing import Annotated

import typer

from planc.cli.console import out, print_json, report_written
from planc.cli.options import Json, optimizer_of
from planc.importer.save import write_model
from planc.training import differentiate
from planc.zoo import ZooOptions, build_forward, families

zoo = typer.Typer(help="Networks that planc can build itself, as training graphs.", no_args_is_help=True)


@zoo.command("list")
def list_networks(json: Json = False) -> None:
    """Show every network that `planc zoo build` knows."""
    rows = {name: family.names[name] for name, family in sorted(families().items())}
    if json:
        print_json({"networks": [{"name": name, "description": text} for name, text in rows.items()]})
        return
    for name, text in rows.items():
        out().print(f"{name:<16}{text}")


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
    json: Json = False,
) -> None:
    """Build the training step of network NAME: forward, backward and update in one graph of standard operators."""
    built = build_forward(name, ZooOptions(batch, image, depth, width, seq, classes, seed))
    model = built.model
    if not forward:
        model = differentiate(model, loss=built.loss, optimizer=optimizer_of(optimizer, learning_rate))
    write_model(model, output)
    report_written(model, output, json)
