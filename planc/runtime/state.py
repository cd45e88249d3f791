"""State on disk: safetensors, with the position of the random generators in the file's metadata."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from planc.errors import FeedError
from planc.file_kinds import not_the
from planc.files import read_file, write_output

_LARGEST_STATE = 1 << 42
"""Bytes; the state of a model that still fits a machine's memory."""

_DRAWN, _SEED = "planc.steps_drawn", "planc.seed"

_SPECIAL = {
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E8M0": ml_dtypes.float8_e8m0fnu,
}
_NAMES = {
    "BOOL": "bool", "F16": "float16", "F32": "float32", "F64": "float64", "C64": "complex64",
    "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64",
    "U8": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64",
}  # fmt: skip
_DTYPES = {name: np.dtype(kind) for name, kind in {**_NAMES, **_SPECIAL}.items()}
"""Element types of the format, little-endian."""


@dataclass(frozen=True)
class Generators:
    """Where random operators are: in step `drawn` of what follows from `seed`."""

    drawn: int
    seed: int


def write_state(state: Mapping[str, np.ndarray], path: Path, generators: Generators | None = None) -> None:
    """Write named arrays, whole or not at all. Raises OutputError when the file cannot be written, FeedError for a type
    that the format lacks."""
    notes = {_DRAWN: str(generators.drawn), _SEED: str(generators.seed)} if generators else None
    arrays = {name: np.asarray(value, order="C") for name, value in state.items()}
    unknown = next((name for name, array in arrays.items() if array.dtype not in _DTYPES.values()), None)
    if unknown is not None:
        raise FeedError(f"{path}: state {unknown!r} is {arrays[unknown].dtype}, which safetensors files cannot hold")
    write_output(path, save(arrays, notes), "state")


def read_state(path: Path) -> dict[str, np.ndarray]:
    """Named arrays. Raises FeedError naming the file when it is missing or damaged."""
    return read_checkpoint(path)[0]


def read_checkpoint(path: Path) -> tuple[dict[str, np.ndarray], Generators | None]:
    """Named arrays, and where random operators were, if the file tells. Raises FeedError naming the file when it is
    missing or damaged, or has a type of element that no model here takes."""
    try:
        data = read_file(path, _LARGEST_STATE)
        found = {name: _array(entry) for name, entry in deserialize(data)}  # type: ignore[no-untyped-call]
        return found, _generators(data)
    except (OSError, SafetensorError, ValueError, MemoryError) as error:
        raise FeedError(not_the("safetensors file", path, error)) from error
    except KeyError as error:
        raise FeedError(f"{path}: it has elements of type {error}, which no model here takes") from error


def _array(entry: Mapping[str, Any]) -> np.ndarray:
    array: np.ndarray = np.frombuffer(entry["data"], np.uint8).view(_DTYPES[entry["dtype"]])
    return array.reshape(entry["shape"])


def _generators(data: bytes) -> Generators | None:
    """From the header, which the library has checked: its length in eight bytes, then JSON."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    notes = header.get("__metadata__") or {}
    if _DRAWN not in notes or _SEED not in notes:
        return None
    drawn, seed = int(notes[_DRAWN]), int(notes[_SEED])
    if drawn < 0:
        raise ValueError(f"{_DRAWN} is {drawn}")
    return Generators(drawn, seed)
