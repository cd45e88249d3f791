"""An ONNX file in memory without its weights: they stay in the file until one of them is asked for.

A protocol buffer is read whole or not at all, so a model's weights would be in memory twice while it is read and once
for as long as anything holds it, beside the slab that they train in. Here the file is walked field by field, and the
bytes of large initializers are left out of what is parsed: in their place stands what ONNX says of tensors whose data
lie in another file (external data), which is this file.

Wire format: https://protobuf.dev/programming-guides/encoding. Field numbers: onnx.proto.
"""

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import onnx

from planc.files import opened

_LEFT_BYTES = 4096
"""Initializers of at least so many bytes stay in the file."""

_GRAPH, _INITIALIZER = 7, 5
_RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 9, 13, 14

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT = 10


_LARGEST = 1 << 31
"""Bytes that a protocol buffer can hold, weights apart."""


@dataclass(frozen=True, slots=True)
class _Field:
    """One field of a message: it lies at [`start`, `end`) of the file, its content from `content` on."""

    number: int
    wire: int
    start: int
    content: int
    end: int


def lean_model(path: Path) -> onnx.ModelProto:
    """The model in a file, with large initializers as external data in that very file.

    Raises OSError where it cannot be read, protobuf's DecodeError where it is no model.
    """
    with opened(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        try:
            data = b"".join(_without_weights(stream, size, path.name))
        except ValueError:  # no well-formed message: the parser says what is wrong
            data = _span(stream, 0, size)
    model = onnx.ModelProto()
    model.ParseFromString(data)
    return model


def _without_weights(stream: BinaryIO, size: int, name: str) -> Iterator[bytes]:
    for field in _fields(stream, 0, size):
        if (field.number, field.wire) == (_GRAPH, _BYTES):
            yield from _message(_GRAPH, b"".join(_lean_graph(stream, field, name)))
        else:
            yield _span(stream, field.start, field.end)


def _lean_graph(stream: BinaryIO, graph: _Field, name: str) -> Iterator[bytes]:
    kept = graph.content  # what lies between two initializers is read at once
    for field in _fields(stream, graph.content, graph.end):
        if (field.number, field.wire) != (_INITIALIZER, _BYTES) or field.end - field.content < _LEFT_BYTES:
            continue
        lean = _lean_tensor(stream, field, name)
        if lean is not None:
            yield _span(stream, kept, field.start)
            yield from _message(_INITIALIZER, lean)
            kept = field.end
    yield _span(stream, kept, graph.end)


def _lean_tensor(stream: BinaryIO, tensor: _Field, name: str) -> bytes | None:
    """The initializer with the place of its data in the file; None where it is to stay as it is."""
    fields = list(_fields(stream, tensor.content, tensor.end))
    data = [field for field in fields if field.number == _RAW_DATA]
    elsewhere = any(field.number in (_EXTERNAL_DATA, _DATA_LOCATION) for field in fields)
    if len(data) != 1 or data[0].wire != _BYTES or data[0].end - data[0].content < _LEFT_BYTES or elsewhere:
        return None
    place = onnx.TensorProto(data_location=onnx.TensorProto.EXTERNAL)
    found = {"location": name, "offset": str(data[0].content), "length": str(data[0].end - data[0].content)}
    for key, value in found.items():
        place.external_data.add(key=key, value=value)
    kept = (_span(stream, field.start, field.end) for field in fields if field is not data[0])
    return b"".join((*kept, place.SerializeToString()))


def _message(number: int, content: bytes) -> Iterator[bytes]:
    yield _varint(number << 3 | _BYTES)
    yield _varint(len(content))
    yield content


def _fields(stream: BinaryIO, start: int, end: int) -> Iterator[_Field]:
    """The fields of a message at [`start`, `end`). Raises ValueError where it is none."""
    while start < end:
        stream.seek(start)
        key, at = _read_varint(stream, start)
        number, wire = key >> 3, key & 7
        if wire == _BYTES:
            length, at = _read_varint(stream, at)
            stop = at + length
        elif wire == _VARINT:
            stop = _read_varint(stream, at)[1]
        elif wire in (_FIXED64, _FIXED32):
            stop = at + (8 if wire == _FIXED64 else 4)
        else:
            raise ValueError(f"wire type {wire}")
        if stop > end or not number:
            raise ValueError("a field ends outside its message")
        yield _Field(number, wire, start, at, stop)
        start = stop


def _read_varint(stream: BinaryIO, at: int) -> tuple[int, int]:
    """The number at the stream's position `at`, and the position behind it."""
    value = 0
    for index in range(_LONGEST_VARINT):
        byte = stream.read(1)
        if not byte:
            break
        value |= (byte[0] & 0x7F) << 7 * index
        if byte[0] < 0x80:
            return value, at + index + 1
    raise ValueError("a number does not end")


def _varint(value: int) -> bytes:
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def _span(stream: BinaryIO, start: int, end: int) -> bytes:
    if end - start > _LARGEST:
        raise OSError(errno.EFBIG, f"{end - start} bytes of it are no weights, more than the {_LARGEST} of any model")
    stream.seek(start)
    return stream.read(end - start)
