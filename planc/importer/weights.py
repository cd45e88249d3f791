"""Values of initializers, read when they are asked for: a model's external data may be larger than memory.

ONNX keeps what does not fit a protocol buffer (2 GiB) in files beside the model. Only the values that something needs
are read from there, one tensor at a time; compiling a plan needs no state at all.
"""

from collections.abc import Callable, Iterator, Mapping
from math import prod
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, external_data_helper, numpy_helper

from planc.errors import ModelError
from planc.files import opened
from planc.graph.wellformed import is_external


def filled(tensor: TensorProto, folder: Path | None) -> TensorProto:
    """The tensor with its values in it. Raises ModelError where its file lies outside `folder` or cannot be read."""
    if not is_external(tensor):
        return tensor
    copy = TensorProto()
    copy.CopyFrom(tensor)
    try:
        external_data_helper.load_external_data_for_tensor(copy, str(folder or Path()))
    except (ValueError, OSError, onnx.checker.ValidationError) as error:
        raise ModelError(f"external data of initializer {tensor.name!r} cannot be read: {error}") from error
    return copy


def misplaced(tensor: TensorProto, folder: Path | None) -> str | None:
    """Why the external data of `tensor` cannot be read, without reading it; None where nothing speaks against it."""
    try:
        info = external_data_helper.ExternalDataInfo(tensor)
    except ValueError as error:
        return str(error)
    base = (folder or Path()).resolve()
    path = (base / info.location).resolve()
    itemsize = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    need = prod(tensor.dims) * itemsize
    if not info.location or not path.is_relative_to(base):
        return f"{info.location!r} lies outside the model's folder"
    if not path.is_file():
        return f"{info.location!r} is missing beside the model"
    if info.length is not None and info.length != need:
        return f"it has {info.length} bytes, its shape {list(tensor.dims)} needs {need}"
    if (info.offset or 0) + need > path.stat().st_size:
        return f"{info.location!r} is too short"
    return None


def _read_alone(tensor: TensorProto, folder: Path | None) -> np.ndarray | None:
    """External data straight from its file into one array: the library's way holds it three times. None where the data
    are not the array's bytes, as with types of less than a byte, or its place cannot be right."""
    if misplaced(tensor, folder) is not None:
        return None
    info = external_data_helper.ExternalDataInfo(tensor)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    data = np.empty(prod(tensor.dims) * dtype.itemsize, np.uint8)
    if info.length != data.size or dtype.kind not in "fiubcV":
        return None
    with opened((folder or Path()) / info.location) as stream:
        stream.seek(info.offset or 0)
        size = stream.readinto(data)
    return data.view(dtype).reshape(tensor.dims) if size == data.size else None


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
        found = _read_alone(tensor, self._folder) if is_external(tensor) else None
        return numpy_helper.to_array(filled(tensor, self._folder)) if found is None else found

    def __contains__(self, name: object) -> bool:
        return name in self._tensors  # the mapping's own way would read the value

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)
