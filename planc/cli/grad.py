"""`planc grad`: forward model → training graph."""

from pathlib import Path
from typing import Annotated

import onnx
import typer

from planc.cli.console import err, report_written
from planc.cli.options import Forms, Json, dimensions, optimizer_of
from planc.cli.outputs import require_outputs
from planc.graph.annotations import STATE, read_json
from planc.importer.load import read_model
from planc.importer.save import write_model
from planc.training import differentiate
from planc.training.prepare.parameters import untrained
from planc.training.step_options import StepOptions

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
    device: Forms = "cpu",
    json: Json = False,
) -> None:
    """Differentiate FORWARD: add loss, backward pass and optimizer in standard operators."""
    require_outputs((forward,), {"-o": output})
    source = read_model(forward, whole=True).proto
    model = differentiate(
        source,
        loss=loss,
        optimizer=optimizer_of(optimizer, learning_rate),
        device=device,
        dims=dimensions(dim or ()),
        precision=precision,
        options=StepOptions(loss_scale=loss_scale),
    )
    write_model(model, output)
    _tell_untrained(source, model)
    report_written(model, output, json)


def _tell_untrained(forward: onnx.ModelProto, model: onnx.ModelProto) -> None:
    """Name the tensors that look like parameters and stay as they are."""
    frozen = untrained(forward, read_json(model, STATE))
    if frozen:
        more = f" and {len(frozen) - _NAMED} more" if len(frozen) > _NAMED else ""
        err().print(f"not trained: {', '.join(frozen[:_NAMED])}{more}")
