"""DLPack, both ways: arrays on the card shared with PyTorch, CuPy or JAX without a copy.

Follows the DLPack specification 0.x structures (DLTensor, DLManagedTensor), which every consumer still takes.
"""

import ctypes
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Protocol

import ml_dtypes
import numpy as np

from planc.errors import FeedError


class Place(IntEnum):
    """DLDeviceType: where an array lives."""

    CPU = 1
    CUDA = 2


class _Type(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("place", ctypes.c_int32),
        ("index", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("type", _Type),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    pass


_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Managed))
_Managed._fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter))

_CODES = {"i": 0, "u": 1, "f": 2, "bfloat16": 4, "b": 6}
_NAME, _USED = b"dltensor", b"used_dltensor"

_python = ctypes.pythonapi
_new = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(
    ("PyCapsule_New", _python)
)
_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_GetPointer", _python))
_rename = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_SetName", _python))
_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", _python))
_raw_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_GetPointer", _python))

_shared: dict[int, tuple[Any, ...]] = {}
"""What consumers still hold, by the address of its DLManagedTensor."""


def _give_back(managed: Any) -> None:
    """A consumer is done with its array."""
    _shared.pop(ctypes.addressof(managed.contents), None)


def _give_up(capsule: int) -> None:
    """A capsule that nobody took gives its array back."""
    if _valid(capsule, _NAME):
        _shared.pop(_raw_pointer(capsule, _NAME), None)


_delete = _Deleter(_give_back)
_drop = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(_give_up)


class Exporter(Protocol):
    """Anything that follows the DLPack protocol."""

    def __dlpack__(self, *, stream: int | None = None) -> Any: ...

    def __dlpack_device__(self) -> tuple[int, int]: ...


@dataclass(frozen=True)
class DeviceArray:
    """A contiguous array at `address` on card `index`. An output's bytes last until the next step.

    `owner` is kept alive with the array. `fetch` copies it to the host.
    """

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    index: int = 0
    owner: Any = None
    place: Place = Place.CUDA
    fetch: Callable[[], np.ndarray[Any, Any]] | None = field(default=None, repr=False)

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def numpy(self) -> np.ndarray[Any, Any]:
        """A copy on the host. Raises FeedError for an array that came from elsewhere."""
        if self.fetch is None:
            raise FeedError("only the step's own outputs can be fetched: ask the library that made the array")
        return self.fetch()

    def __dlpack_device__(self) -> tuple[int, int]:
        return int(self.place), self.index

    def __dlpack__(self, *, stream: int | None = None, **_: object) -> Any:
        """A capsule for `from_dlpack` of any library. The step is complete: no stream has to wait."""
        shape = (ctypes.c_int64 * len(self.shape))(*self.shape)
        kind = "bfloat16" if self.dtype == ml_dtypes.bfloat16 else self.dtype.kind
        if kind not in _CODES:
            raise BufferError(f"DLPack has no type for {self.dtype}")
        tensor = _Tensor(
            self.address,
            self.place,
            self.index,
            len(self.shape),
            _Type(_CODES[kind], self.dtype.itemsize * 8, 1),
            shape,
        )
        managed = _Managed(tensor, None, _delete)
        address = ctypes.addressof(managed)
        _shared[address] = (managed, shape, self.owner)
        return _new(address, _NAME, ctypes.cast(_drop, ctypes.c_void_p))


def is_on_card(value: object) -> bool:
    """Whether a value is an array that lives on a CUDA card."""
    device = getattr(value, "__dlpack_device__", None)
    return device is not None and int(device()[0]) == Place.CUDA


def take(name: str, value: Exporter, stream: int | None = None) -> DeviceArray:
    """The array behind `value`, without a copy, its bytes ready for work queued on `stream` from now on.

    Raises FeedError when it is not contiguous.
    """
    capsule = value.__dlpack__(stream=stream)
    managed = ctypes.cast(_pointer(capsule, _NAME), ctypes.POINTER(_Managed))
    tensor = managed.contents.tensor
    shape = tuple(tensor.shape[i] for i in range(tensor.rank))
    strides = tuple(tensor.strides[i] for i in range(tensor.rank)) if tensor.strides else _contiguous(shape)
    dtype = _dtype(tensor.type)
    address = (tensor.data or 0) + tensor.offset
    place, index = Place(tensor.place), tensor.index
    _rename(capsule, _USED)
    array = DeviceArray(address, shape, dtype, index, _Held(managed), place)
    if any(size > 1 and a != b for size, a, b in zip(shape, strides, _contiguous(shape), strict=True)):
        raise FeedError(f"{name!r} is not contiguous: hand over a contiguous copy")
    return array


class _Held:
    """Gives a taken tensor back to its maker when the last array over it goes."""

    def __init__(self, managed: Any) -> None:
        self._managed = managed

    def __del__(self) -> None:
        if self._managed.contents.deleter:
            self._managed.contents.deleter(self._managed)


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def _dtype(kind: _Type) -> np.dtype[Any]:
    for name, code in _CODES.items():
        if code == kind.code and kind.lanes == 1:
            text = {"bfloat16": "bfloat16", "b": "bool"}.get(name)
            return np.dtype(ml_dtypes.bfloat16 if text == "bfloat16" else text or f"{name}{kind.bits // 8}")
    raise FeedError(f"a DLPack type of code {kind.code} with {kind.bits} bits is not one that models take")
