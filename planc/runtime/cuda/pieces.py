"""What a card needs, piece by piece: the first that is missing here, and the command that brings it."""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import onnxruntime as ort

from planc.runtime.cuda.provider import NAME, missing_libraries

_EXTRA = "pip install 'planc[cuda]'"


@dataclass(frozen=True)
class Piece:
    """A part of a working CUDA installation, and how to get it."""

    name: str
    remedy: str
    is_missing: Callable[[], bool]


def _no_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return True
    return False


def _no_bindings() -> bool:
    return find_spec("cuda") is None or find_spec("cuda.bindings") is None


PIECES = (
    Piece(
        "an NVIDIA driver for CUDA 13 (libcuda.so.1)",
        "install your distribution's package, such as nvidia-driver; without a card, planc uses the CPU",
        _no_driver,
    ),
    Piece(
        "an ONNX Runtime with the CUDA provider",
        "pip uninstall -y onnxruntime && pip install --force-reinstall onnxruntime-gpu",
        lambda: NAME not in ort.get_available_providers(),
    ),
    Piece("the package cuda-bindings", _EXTRA, _no_bindings),
    Piece("CUDA 13 and cuDNN 9", _EXTRA, lambda: bool(missing_libraries())),
)
"""In the order in which a person would look: what comes later is of no use without what comes before."""


def first_missing() -> Piece | None:
    """The first piece that is missing, None where all are there."""
    return next((piece for piece in PIECES if piece.is_missing()), None)
