"""State on disk: safetensors."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from planc.errors import FeedError
from planc.files import atomic_write


def write_state(state: Mapping[str, np.ndarray], path: Path) -> None:
    """Write named arrays, whole or not at all. Raises FeedError when the file cannot be written."""
    try:
        atomic_write(path, save({name: np.asarray(value, order="C") for name, value in state.items()}))
    except OSError as error:
        raise FeedError(f"{path}: the state cannot be written ({error.strerror or error})") from error


def read_state(path: Path) -> dict[str, np.ndarray]:
    """Read named arrays. Raises FeedError naming the file when it is missing or damaged."""
    try:
        found: dict[str, np.ndarray] = load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise FeedError(f"{path}: not a readable safetensors file ({error})") from error
    return found
