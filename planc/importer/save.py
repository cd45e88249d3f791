"""Writing ONNX models."""

from math import prod
from pathlib import Path

import onnx

from planc.errors import ModelError
from planc.files import atomic_write
from planc.graph.wellformed import is_undrawn
from planc.units import align_up

_SINGLE_FILE_BYTES = 2_000_000_000
"""Protocol buffers cannot hold 2 GiB: larger models keep their weights in a file beside them."""


_PAGE = 4096
"""External data of a tensor starts at a multiple of this, as ONNX recommends for mapping it."""


def write_structure(model: onnx.ModelProto, path: Path) -> None:
    """Write a model whose initial values are not drawn: they become zeros in `<name>.data` beside it, a sparse file that
    takes next to no room on the disk. Raises ModelError when the folder cannot be written.
    """
    end = 0
    for tensor in filter(is_undrawn, model.graph.initializer):
        size = prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        place = {"location": f"{path.name}.data", "offset": str(end), "length": str(size)}
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.extend(onnx.StringStringEntryProto(key=k, value=v) for k, v in place.items())
        end = align_up(end + size, _PAGE)
    try:
        with open(path.with_name(f"{path.name}.data"), "wb") as stream:
            stream.truncate(end)
        atomic_write(path, model.SerializeToString())
    except OSError as error:
        raise ModelError(f"{path}: the model cannot be written ({error.strerror or error})") from error


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
