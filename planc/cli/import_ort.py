"""`planc import-ort`: ONNX Runtime's training artifacts → training graph."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planc.cli.console import err, report_written
from planc.cli.options import Json, dimensions
from planc.cli.outputs import require_outputs

if TYPE_CHECKING:
    import numpy as np


def import_ort(
    training_model: Path,
    optimizer_model: Path,
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the training graph goes.")],
    weights: Annotated[
        Path | None,
        typer.Option(help="Initial values by name: the forward .onnx model or a .safetensors file; random otherwise."),
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Step size; SGD's usual one if not given.")] = None,
    dim: Annotated[list[str] | None, typer.Option(help="Bind a symbolic dimension, e.g. batch=16; may repeat.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of initial values that no file gives.")] = 0,
    json: Json = False,
) -> None:
    """Lower TRAINING_MODEL and OPTIMIZER_MODEL of onnxruntime-training and join them into one step."""
    from planc.importer.load import read_model
    from planc.importer.save import write_model
    from planc.ort_training.artifacts import LEARNING_RATE, import_artifacts

    require_outputs((training_model, optimizer_model, weights), {"-o": output})
    model = import_artifacts(
        read_model(training_model, whole=True).proto,
        read_model(optimizer_model, whole=True).proto,
        dims=dimensions(dim or ()),
        weights=_read_weights(weights),
        learning_rate=LEARNING_RATE if learning_rate is None else learning_rate,
        seed=seed,
    )
    write_model(model, output)
    if weights is None:
        err().print("no --weights: the parameters start from random values, not from the artifacts' checkpoint")
    report_written([(model, output)], json)


def _read_weights(path: Path | None) -> "dict[str, np.ndarray]":
    from onnx import numpy_helper

    from planc.importer.load import read_model
    from planc.runtime.state import read_state

    if path is None:
        return {}
    if path.suffix == ".onnx":
        return {t.name: numpy_helper.to_array(t) for t in read_model(path, whole=True).proto.graph.initializer}
    return read_state(path)
