"""State on disk: safetensors."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from planc.errors import FeedError
from planc.files import read_file, write_output

_LARGEST_STATE = 1 << 42
"""Bytes; the state of a model that still fits a machine's memory."""


def write_state(state: Mapping[str, np.ndarray], path: Path) -> None:
    """Write named arrays, whole or not at all. Raises OutputError when the file cannot be written."""
    write_output(path, save({name: np.asarray(value, order="C") for name, value in state.items()}), "state")


def read_state(path: Path) -> dict[str, np.ndarray]:
    """Read named arrays. Raises FeedError naming the file when it is missing or damaged."""
    try:
        found: dict[str, np.ndarray] = load(read_file(path, _LARGEST_STATE))
    except (OSError, SafetensorError) as error:
        raise FeedError(f"{path}: not a readable safetensors file ({error})") from error
    return found
