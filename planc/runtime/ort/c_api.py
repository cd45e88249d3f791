"""The few functions of ONNX Runtime's C API that its Python package does not offer, called through ctypes.

The API is a table of function pointers that only ever grows at its end (ONNX Runtime's promise), so the positions below
hold for every version. The Python package keeps the table to itself, but hands it to provider libraries: the object
that the bridge library `libonnxruntime_providers_shared` holds for them begins with the function that returns it.
Everything on the way is checked: where it looks different, nothing is called.
"""

import atexit
import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as native

_API_VERSION = 18
"""The oldest API with every function and field used here."""

_GET_ERROR_MESSAGE, _CREATE_ENV, _CREATE_MEMORY_INFO, _RELEASE_STATUS, _REGISTER_ALLOCATOR = 2, 3, 68, 93, 176
"""Positions in the table (`OrtApi` of onnxruntime_c_api.h)."""

_WARNING, _DEVICE_ALLOCATOR, _DEFAULT_MEMORY = 2, 0, 0


class Allocator(ctypes.Structure):
    """`OrtAllocator` up to the fields of API version 18."""


AllocateCall = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(Allocator), ctypes.c_size_t)
FreeCall = ctypes.CFUNCTYPE(None, ctypes.POINTER(Allocator), ctypes.c_void_p)
InfoCall = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(Allocator))
Allocator._fields_ = [
    ("version", ctypes.c_uint32),
    ("allocate", AllocateCall),
    ("free", FreeCall),
    ("info", InfoCall),
    ("reserve", AllocateCall),
]


class Environment:
    """ONNX Runtime's environment of this process, to which shared allocators belong."""

    def __init__(self, table: "ctypes._Pointer[ctypes.c_void_p]") -> None:
        self._table = table
        self._env = ctypes.c_void_p()
        types = (ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
        self._call(_CREATE_ENV, types, _WARNING, b"planc", ctypes.byref(self._env))

    def register(
        self,
        allocate: Callable[[object, int], int | None],
        free: Callable[[object, int], None],
        reserve: Callable[[object, int], int | None],
        memory: str = "Cpu",
        index: int = 0,
    ) -> Allocator:
        """Make these the environment's shared allocator of a memory (`Cpu`, or `Cuda` of card `index`); keep the returned
        object for ever.

        `reserve` serves what lives as long as a session. Raises RuntimeError when the environment has one already.
        """
        info, number = ctypes.c_void_p(), ctypes.c_int
        kinds = (ctypes.c_char_p, number, number, number, ctypes.c_void_p)
        values = (memory.encode(), _DEVICE_ALLOCATOR, index, _DEFAULT_MEMORY, ctypes.byref(info))
        self._call(_CREATE_MEMORY_INFO, kinds, *values)
        allocator = Allocator(
            _API_VERSION, AllocateCall(allocate), FreeCall(free), InfoCall(lambda _: info.value), AllocateCall(reserve)
        )
        types = (ctypes.c_void_p, ctypes.c_void_p)
        self._call(_REGISTER_ALLOCATOR, types, self._env, ctypes.byref(allocator))
        atexit.register(_outlive_python, allocator)
        return allocator

    def _call(self, position: int, types: tuple[type, ...], *arguments: object) -> None:
        status = ctypes.CFUNCTYPE(ctypes.c_void_p, *types)(self._table[position] or 0)(*arguments)
        if status:
            message = ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.c_void_p)(self._table[_GET_ERROR_MESSAGE] or 0)(status)
            ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self._table[_RELEASE_STATUS] or 0)(status)
            raise RuntimeError(message.decode(errors="replace"))


def _outlive_python(allocator: Allocator) -> None:
    """Sessions that a program still holds when it ends are destroyed after Python is: what they free is left to the
    system then, by a C function that does nothing with its arguments, and the structure is never given back."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(allocator))
    allocator.free = ctypes.cast(ctypes.CDLL(None).getpid, FreeCall)


def can_place_scratch() -> bool:
    """Whether the shared allocator can be planc's own, so that scratch lies where a plan says."""
    return api_table() is not None


def environment() -> Environment | None:
    """The environment, or None where this build of ONNX Runtime does not give it away.

    Thread pools must have been set before: the environment is made with them.
    """
    table = api_table()
    return None if table is None else Environment(table)


@cache
def api_table() -> "ctypes._Pointer[ctypes.c_void_p] | None":
    """The table of function pointers, None where this build of ONNX Runtime does not give it away."""
    try:
        bridge = ctypes.CDLL(str(Path(native.__file__).with_name("libonnxruntime_providers_shared.so")))
        bridge.Provider_GetHost.restype = ctypes.c_void_p
        host = bridge.Provider_GetHost()
    except (OSError, AttributeError):
        return None
    code = _CodeRanges()
    methods = _pointers(host)[0] if host else None
    get_base = _pointers(methods)[0] if methods else None
    if not get_base or get_base not in code:
        return None
    base = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(get_base)(host)
    get_api, get_version = _pointers(base)[0], _pointers(base)[1]
    if get_api not in code or get_version not in code:
        return None
    if ctypes.CFUNCTYPE(ctypes.c_char_p)(get_version or 0)() != ort.__version__.encode():
        return None
    table = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)(get_api or 0)(_API_VERSION)
    return _pointers(table) if table else None


def _pointers(address: int) -> "ctypes._Pointer[ctypes.c_void_p]":
    return ctypes.cast(address, ctypes.POINTER(ctypes.c_void_p))


class _CodeRanges:
    """Addresses of executable code of the Python package's own library (Linux)."""

    def __init__(self) -> None:
        self._ranges: list[tuple[int, int]] = []
        for line in Path("/proc/self/maps").read_text().splitlines():
            fields = line.split(maxsplit=5)
            if len(fields) == 6 and "x" in fields[1] and fields[5] == native.__file__:
                first, end = fields[0].split("-")
                self._ranges.append((int(first, 16), int(end, 16)))

    def __contains__(self, address: int | None) -> bool:
        return address is not None and any(first <= address < end for first, end in self._ranges)
