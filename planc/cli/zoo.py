"""`planc zoo`: networks that planc can build itself."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from planc.cli.console import err, out, print_json, progress, report_written
from planc.cli.options import Accumulate, ClipNorm, ClipValue, Ema, Forms, Json, Shard, WorldSize, optimizer_of
from planc.cli.outputs import require_outputs
from planc.cli.ranks import each_rank
from planc.errors import UsageError

zoo = typer.Typer(help="Networks that planc can build itself, as training graphs.", no_args_is_help=True)


@zoo.command("list", short_help="Every network, with the size of its step.")
def list_networks(json: Json = False) -> None:
    """Show every network that `planc zoo build` knows, with the size of its training step."""
    from rich.table import Table

    from planc.profiling.target import forms_of
    from planc.zoo import OPTIMIZER, families, summarize

    names, forms = sorted(families()), forms_of("auto")
    found = []
    with progress("building") as update:
        for done, name in enumerate(names):
            update(done, len(names), name)
            found.append(summarize(name, forms))
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
    err().print(f"Operators and layers are those of the training step with {OPTIMIZER} at the default size.")


def _shapes(inputs: Mapping[str, tuple[int, ...]]) -> str:
    """`input 32x3x224x224, labels 32`."""
    return ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in inputs.items())


@zoo.command("build", short_help="The training step of one network, as a file.")
def build(
    name: str,
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the training graph goes.")],
    batch: Annotated[int | None, typer.Option(help="Examples per step.")] = None,
    image: Annotated[int | None, typer.Option(help="Height and width of the images.")] = None,
    depth: Annotated[int | None, typer.Option(help="Layers or blocks.")] = None,
    width: Annotated[int | None, typer.Option(help="Channels or model width.")] = None,
    seq: Annotated[int | None, typer.Option(help="Tokens per sequence.")] = None,
    classes: Annotated[int | None, typer.Option(help="Classes, or vocabulary size.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="sgd, momentum (as usual), adam or adamw.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Step size; the optimizer's usual one if not given.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the initial values.")] = 0,
    forward: Annotated[bool, typer.Option("--forward", help="Write the forward model only, for `planc grad`.")] = False,
    world_size: WorldSize = 1,
    shard: Shard = False,
    clip_norm: ClipNorm = None,
    clip_value: ClipValue = None,
    accumulate: Accumulate = 1,
    ema: Ema = None,
    device: Forms = "auto",
    zeros: Annotated[
        bool,
        typer.Option("--zeros", help="Leave initial values zero, in a sparse file: to plan what no disk can hold."),
    ] = False,
    json: Json = False,
) -> None:
    """Build the training step of network NAME: forward, backward and update in one graph."""
    from planc.importer.save import write_model, write_structure
    from planc.profiling.target import forms_of
    from planc.training.step_options import PLAIN, StepOptions
    from planc.zoo import OPTIMIZER, ZooOptions, build_forward, build_step

    options = ZooOptions(batch, image, depth, width, seq, classes, seed)
    step = StepOptions(
        clip_norm, clip_value=clip_value, accumulate=accumulate, ema_decay=ema, ranks=world_size, sharded=shard
    )
    targets = list(each_rank(output, step))
    for target, _ in targets:
        require_outputs((), {"-o": target})
    if forward and (shard or replace(step, ranks=1) != PLAIN):
        raise UsageError(
            "--forward writes no step: give --clip-norm, --clip-value, --accumulate, --ema and --shard to `planc grad`"
        )
    written = []
    for target, own in targets:
        if forward:
            model = build_forward(name, options, not zeros).model
        else:
            rule = optimizer_of(optimizer or OPTIMIZER, learning_rate)
            model = build_step(name, options, rule, forms_of(device), not zeros, own)
        (write_structure if zeros else write_model)(model, target)
        written.append((model, target))
    report_written(written, json)
