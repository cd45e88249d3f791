"""Values of tensors, read when they are asked for: a model's external data may be larger than memory.

ONNX keeps what does not fit a protocol buffer (2 GiB) in files beside the model. Only the values that something needs
are read from there, one tensor at a time; compiling a plan needs no state at all. A model names these files itself, so
each name is followed only below the model's folder, to a regular file, and sizes are compared before anything is read.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from math import prod
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, numpy_helper
from onnx.external_data_helper import ExternalDataInfo

from planc.errors import ModelError
from planc.files import below, opened
from planc.graph.wellformed import is_external, tensors_of
from planc.importer.lean import lean_model


def filled(tensor: TensorProto, folder: Path | None) -> TensorProto:
    """The tensor with its values in it. Raises ModelError where its file lies outside `folder` or cannot be read."""
    if not is_external(tensor):
        return tensor
    copy = TensorProto()
    copy.CopyFrom(tensor)
    copy.ClearField("data_location")
    copy.ClearField("external_data")
    copy.raw_data = _read_alone(tensor, folder).tobytes()
    return copy


def misplaced(tensor: TensorProto, folder: Path | None) -> str | None:
    """Why the external data of `tensor` cannot be read, without reading it; None where nothing speaks against it."""
    try:
        path, offset, size = _place(tensor, folder)
        with opened(path) as stream:
            there = os.fstat(stream.fileno()).st_size
    except FileNotFoundError:
        return f"{path.name!r} is missing beside the model"
    except OSError as error:
        return error.strerror or str(error)
    return f"{path.name!r} is too short" if offset + size > there else None


def fill_all(model: onnx.ModelProto, folder: Path | None) -> None:
    """Read the external data of initializers and constants into `model`. Raises ModelError as `filled`."""
    for tensor in tensors_of(model):
        if is_external(tensor):
            tensor.CopyFrom(filled(tensor, folder))


def data_files(path: Path) -> Iterator[Path]:
    """The files in which the model at `path` says that its external data lie; none for what is no model."""
    with suppress(OSError, DecodeError):
        tensors = [tensor for tensor in tensors_of(lean_model(path)) if is_external(tensor)]
        entries = [entry for tensor in tensors for entry in tensor.external_data if entry.key == "location"]
        for location in {entry.value for entry in entries}:
            with suppress(OSError):
                yield below(path.parent, location)


def _place(tensor: TensorProto, folder: Path | None) -> tuple[Path, int, int]:
    """File, first byte and number of bytes of external data. Raises OSError where the model does not say so sensibly."""
    try:
        info = ExternalDataInfo(tensor)
        itemsize = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except (ValueError, KeyError, TypeError) as error:
        raise OSError(f"its entries cannot be read: {error}") from error
    offset, size = info.offset or 0, prod(tensor.dims) * itemsize
    if folder is None:
        raise OSError(f"{info.location[:40]!r}: a model in memory has no folder; read the model from its file")
    if min(tensor.dims, default=0) < 0 or not 0 <= offset <= 1 << 62 or size > 1 << 62:
        raise OSError(f"offset {offset} and shape {list(tensor.dims)} are no place in a file")
    if info.length is not None and info.length != size:
        raise OSError(f"it has {info.length} bytes, its shape {list(tensor.dims)} needs {size}")
    return below(folder, info.location), offset, size


def _read_alone(tensor: TensorProto, folder: Path | None) -> np.ndarray:
    """External data straight from its file into one array, which a tensor in between would hold twice."""
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    try:
        path, offset, size = _place(tensor, folder)
        with opened(path) as stream:
            if offset + size > os.fstat(stream.fileno()).st_size:
                raise OSError(f"{path.name!r} is too short")
            stream.seek(offset)
            data = np.fromfile(stream, np.uint8, size)
    except OSError as error:
        raise ModelError(f"external data of initializer {tensor.name!r}: {error.strerror or error}") from error
    return data.view(dtype).reshape(tensor.dims)


class InitialValues(Mapping[str, np.ndarray]):
    """The values of some initializers by name; none is kept."""

    def __init__(
        self, tensors: Mapping[str, TensorProto], folder: Path | None, check: Callable[[], None] = lambda: None
    ) -> None:
        """`check` raises what is to be raised before a value is read."""
        self._tensors, self._folder, self._check = tensors, folder, check

    def __getitem__(self, name: str) -> np.ndarray:
        self._check()
        tensor = self._tensors[name]
        return _read_alone(tensor, self._folder) if is_external(tensor) else numpy_helper.to_array(tensor)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors  # the mapping's own way would read the value

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)
