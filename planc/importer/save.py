"""Writing ONNX models."""

from pathlib import Path

import onnx

from planc.errors import ModelError
from planc.files import atomic_write

_SINGLE_FILE_BYTES = 2_000_000_000
"""Protocol buffers cannot hold 2 GiB: larger models keep their weights in a file beside them."""


def write_model(model: onnx.ModelProto, path: Path) -> None:
    """Write a model, whole or not at all; weights of a model over 2 GB go to `<name>.data` beside it.

    Raises ModelError when the folder cannot be written.
    """
    try:
        if sum(len(i.raw_data) for i in model.graph.initializer) < _SINGLE_FILE_BYTES:
            atomic_write(path, model.SerializeToString())
        else:
            onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data")
    except OSError as error:
        raise ModelError(f"{path}: the model cannot be written ({error.strerror or error})") from error
