"""Writing ONNX models, and the weights of large ones in a file beside them.

A model and its data are two files, which no call replaces at once. So the data goes to a file that no model names yet, and
the model that names it takes the old one's place: at every moment a reader finds a model with its own data, whenever the
writing process is killed. The data of the replaced model is removed last.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain, count
from math import prod
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto

from planc.errors import OutputError
from planc.files import atomic_write, read_file, replacing, writable, write_output
from planc.graph.wellformed import is_external, is_undrawn
from planc.units import align_up

_SINGLE_FILE_BYTES = 2_000_000_000
"""Protocol buffers cannot hold 2 GiB: larger models keep their weights in a file beside them."""

_PAGE = 4096
"""External data of a tensor starts at a multiple of this, as ONNX recommends for mapping it."""

_INLINE_BYTES = 1024
"""Weights up to this size stay in the model."""


def write_structure(model: onnx.ModelProto, path: Path) -> None:
    """Write a model whose initial values are not drawn: they become zeros in a file beside it, a sparse one that takes next
    to no room on the disk. Raises OutputError when the folder cannot be written.
    """
    undrawn = list(filter(is_undrawn, model.graph.initializer))
    sizes = [prod(t.dims) * onnx.helper.tensor_dtype_to_np_dtype(t.data_type).itemsize for t in undrawn]
    _write_with_data(model, path, undrawn, sizes, zeros=True)


def write_model(model: onnx.ModelProto, path: Path) -> None:
    """Write a model, whole or not at all; weights of a model over 2 GB go to `<name>.data` beside it.

    Raises OutputError when the folder cannot be written.
    """
    if sum(len(i.raw_data) for i in model.graph.initializer) < _SINGLE_FILE_BYTES:
        write_output(path, model.SerializeToString(), "model")
    else:
        large = [t for t in model.graph.initializer if len(t.raw_data) > _INLINE_BYTES]
        _write_with_data(model, path, large, [len(t.raw_data) for t in large])


def _write_with_data(
    model: onnx.ModelProto, path: Path, tensors: list[TensorProto], sizes: list[int], zeros: bool = False
) -> None:
    """Write `model`, the values of `tensors` of these sizes in a file beside it."""
    try:
        target, mode = writable(path)
        if mode is not None and not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "a model with external data is two files")
        outdated = _data_of(target)
        data = _unused(target)
        with replacing(data, mode) as stream:
            end = 0
            for tensor, size in zip(tensors, sizes, strict=True):
                if not zeros:
                    stream.seek(end)
                    stream.write(tensor.raw_data)
                _point_at(tensor, data.name, end, size)
                end = align_up(end + size, _PAGE)
            stream.truncate(end)
        try:
            atomic_write(target, model.SerializeToString())
        except BaseException:
            data.unlink()
            raise
        for file in outdated - {data}:
            with suppress(OSError):
                file.unlink()
    except OSError as error:
        raise OutputError(f"{path}: the model cannot be written ({error.strerror or error})") from error


def _point_at(tensor: TensorProto, file: str, offset: int, size: int) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in (("location", file), ("offset", str(offset)), ("length", str(size))):
        tensor.external_data.add(key=key, value=value)


def _names(target: Path) -> Iterator[Path]:
    """Where the data of a model may go: `<name>.data`, `<name>.2.data`, …"""
    yield target.with_name(f"{target.name}.data")
    yield from (target.with_name(f"{target.name}.{serial}.data") for serial in count(2))


def _unused(target: Path) -> Path:
    return next(path for path in _names(target) if not os.path.lexists(path))


def _data_of(target: Path) -> set[Path]:
    """The files of data that the model at `target` has, of those that planc gives such a model."""
    try:
        model = onnx.load_model_from_string(read_file(target, 1 << 31))
    except (OSError, DecodeError):
        return set()
    named = chain.from_iterable(t.external_data for t in model.graph.initializer if is_external(t))
    own = {entry.value for entry in named if entry.key == "location"}
    return {target.with_name(name) for name in own if name.startswith(f"{target.name}.") and name.endswith(".data")
            and "/" not in name}  # fmt: skip
