"""`planc grad`: forward model → training graph."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planc.cli.console import err, report_written
from planc.cli.options import (
    Accumulate,
    ClipNorm,
    ClipValue,
    Ema,
    Forms,
    Json,
    Shard,
    WorldSize,
    dimensions,
    optimizer_of,
)
from planc.cli.outputs import require_outputs
from planc.cli.ranks import each_rank

if TYPE_CHECKING:
    import onnx

_NAMED = 8
"""Tensors that are named in one message."""


def grad(
    forward: Path,
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the training graph goes.")],
    loss: Annotated[str, typer.Option(help="cross-entropy, mse, or output for a model whose output is the loss.")],
    optimizer: Annotated[str, typer.Option(help="sgd, momentum, adam or adamw.")] = "sgd",
    learning_rate: Annotated[
        float | None, typer.Option(help="Step size; the optimizer's usual one if not given.")
    ] = None,
    dim: Annotated[list[str] | None, typer.Option(help="Bind a symbolic dimension, e.g. batch=16; may repeat.")] = None,
    precision: Annotated[
        str,
        typer.Option(
            help="float32; float16 (fp16) or bfloat16 (bf16) where torch.autocast uses them, with float32 parameters; "
            "pure-bfloat16 (pure-bf16) for parameters too."
        ),
    ] = "float32",
    loss_scale: Annotated[float, typer.Option(help="Static factor on a float16 loss, taken out of the update.")] = 1.0,
    world_size: WorldSize = 1,
    shard: Shard = False,
    clip_norm: ClipNorm = None,
    clip_value: ClipValue = None,
    accumulate: Accumulate = 1,
    ema: Ema = None,
    device: Forms = "auto",
    json: Json = False,
) -> None:
    """Differentiate FORWARD: add loss, backward pass and optimizer."""
    from planc.importer.load import read_model
    from planc.importer.save import write_model
    from planc.profiling.target import forms_of
    from planc.training import differentiate
    from planc.training.step_options import StepOptions

    step = StepOptions(
        clip_norm,
        clip_value=clip_value,
        accumulate=accumulate,
        loss_scale=loss_scale,
        ema_decay=ema,
        ranks=world_size,
        sharded=shard,
    )
    targets = list(each_rank(output, step))
    for target, _ in targets:
        require_outputs((forward,), {"-o": target})
    source = read_model(forward, whole=True).proto
    written = []
    for target, own in targets:
        model = differentiate(
            source,
            loss=loss,
            optimizer=optimizer_of(optimizer, learning_rate),
            device=forms_of(device),
            dims=dimensions(dim or ()),
            precision=precision,
            options=own,
        )
        write_model(model, target)
        written.append((model, target))
    _tell_untrained(source, written[0][0])
    report_written(written, json)


def _tell_untrained(forward: "onnx.ModelProto", model: "onnx.ModelProto") -> None:
    """Name the tensors that look like parameters and stay as they are."""
    from planc.graph.annotations import STATE, read_json
    from planc.training.prepare.parameters import untrained

    frozen = untrained(forward, read_json(model, STATE))
    if frozen:
        more = f" and {len(frozen) - _NAMED} more" if len(frozen) > _NAMED else ""
        err().print(f"not trained: {', '.join(frozen[:_NAMED])}{more}")
