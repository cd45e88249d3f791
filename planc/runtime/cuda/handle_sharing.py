"""One cuDNN handle for all sessions on a stream, instead of one for each.

ONNX Runtime gives every session a cuDNN handle, convolutions or none, and each takes 8-10 MiB of device memory (H100,
cuDNN 9.14): more than the tensors of many a segment. All sessions of a step queue on one stream from one thread, so one
handle serves them. ONNX Runtime has no option for it; but its provider looks cuDNN's functions up with `dlsym`, and where
the provider's slot for that function points to a hook, the hook can answer for `cudnnCreate` and `cudnnDestroy`.

Sessions outside of `shared_handle`, a program's own among them, still get handles of their own.
"""

import atexit
import ctypes
import platform
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from onnxruntime.capi import onnxruntime_pybind11_state as native

from planc.runtime.cuda.elf import slots_of

_PROVIDER = "libonnxruntime_providers_cuda.so"
_PAGE = 4096
_READ, _WRITE, _EXECUTE = 1, 2, 4
_PRIVATE_ANONYMOUS = 0x22
_JUMP = b"\x48\xb8%s\xff\x20"
"""x86-64: mov rax, cell; jmp [rax]."""

_NOTHING = b"\x31\xc0\xc3"
"""x86-64: return 0."""

_Create = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_void_p))
_Destroy = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)
_Lookup = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)

_here = threading.local()


@contextmanager
def shared_handle(stream: int) -> Iterator[None]:
    """Sessions that this thread makes meanwhile, all on `stream`, share a cuDNN handle; it goes with the last of them."""
    _here.stream = stream
    try:
        yield
    finally:
        _here.stream = None


def is_sharing() -> bool:
    """Whether the provider asks the hook for cuDNN's handles: not on other processors than x86-64, nor in a process that
    had a CUDA session of its own before planc's first."""
    hook = installed()
    return hook is not None and hook.asked


@cache
def installed() -> "HandleHook | None":
    """The hook, put in place at the first call, before the first session; None where that cannot be done."""
    if platform.machine() != "x86_64" or platform.system() != "Linux":
        return None
    try:
        folder = Path(native.__file__).parent
        ctypes.CDLL(str(folder / "libonnxruntime_providers_shared.so"), mode=ctypes.RTLD_GLOBAL)
        provider = folder / _PROVIDER
        ctypes.CDLL(str(provider))
        return HandleHook(slots_of(provider, "dlsym"))
    except (OSError, ValueError, struct.error):
        return None


@dataclass
class _Handle:
    """A handle of several sessions: the stream it serves and the sessions that have it."""

    stream: int
    sessions: int


class HandleHook:
    """Answers the provider's look-ups of cudnnCreate and cudnnDestroy; every other goes on to the system's dlsym.

    `slots` are the addresses that hold the provider's pointer to dlsym. `asked` tells that a handle was asked for here.
    """

    def __init__(self, slots: list[int]) -> None:
        self.asked = False
        self._handles: dict[int, _Handle] = {}
        self._dlsym = _Lookup(ctypes.cast(ctypes.CDLL(None).dlsym, ctypes.c_void_p).value or 0)
        cudnn = ctypes.CDLL("libcudnn.so.9")
        self._real_create, self._real_destroy = _Create(("cudnnCreate", cudnn)), _Destroy(("cudnnDestroy", cudnn))
        calls = (_Lookup(self._find), _Create(self._create), _Destroy(self._destroy))
        self._jumps = _Jumps([_address(call) for call in calls])
        self._answers = {b"cudnnCreate": self._jumps.entries[1], b"cudnnDestroy": self._jumps.entries[2]}
        self._calls = calls  # what they point to must live as long
        for slot in slots:
            _overwrite(slot, self._jumps.entries[0])
        atexit.register(self._outlive_python)

    def _find(self, library: int | None, name: bytes) -> int | None:
        found: int | None = self._answers.get(name) or self._dlsym(library, name)
        return found

    def _create(self, made: "ctypes._Pointer[ctypes.c_void_p]") -> int:
        self.asked = True
        stream = getattr(_here, "stream", None)
        shared = next((h for h, of in self._handles.items() if stream is not None and of.stream == stream), None)
        if shared is not None:
            made[0] = shared
            self._handles[shared].sessions += 1
            return 0
        status: int = self._real_create(made)
        if status == 0 and stream is not None:
            self._handles[made[0]] = _Handle(stream, 1)
        return status

    def _destroy(self, handle: int) -> int:
        shared = self._handles.get(handle)
        if shared is not None:
            shared.sessions -= 1
            if shared.sessions:
                return 0
            del self._handles[handle]
        status: int = self._real_destroy(handle)
        return status

    def _outlive_python(self) -> None:
        """Sessions that a program still holds at its end are destroyed after Python is: their handles are left to the
        system then."""
        self._jumps.point(0, _address(self._dlsym))
        self._jumps.point(1, _address(self._real_create))
        self._jumps.point(2, self._jumps.nothing)


class _Jumps:
    """Machine code that jumps where cells say, so that a pointer once given away can lead elsewhere later. Its two pages
    are never given back."""

    def __init__(self, targets: list[int]) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
        code = libc.mmap(None, 2 * _PAGE, _READ | _WRITE, _PRIVATE_ANONYMOUS, -1, 0)
        if code == ctypes.c_void_p(-1).value:
            raise OSError("no memory for jumps")
        self._cells = (ctypes.c_uint64 * len(targets)).from_address(code + _PAGE)
        for i, target in enumerate(targets):
            self._cells[i] = target
        size = ctypes.sizeof(ctypes.c_uint64)
        jumps = [_JUMP % struct.pack("<Q", code + _PAGE + size * i) for i in range(len(targets))]
        text = b"".join(jumps) + _NOTHING
        ctypes.memmove(code, text, len(text))
        self.entries = [code + len(jumps[0]) * i for i in range(len(targets))]
        self.nothing = code + len(text) - len(_NOTHING)
        _protect(code, _READ | _EXECUTE)

    def point(self, index: int, target: int) -> None:
        """Lead one jump elsewhere."""
        self._cells[index] = target


def _address(function: object) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0  # type: ignore[arg-type]


def _overwrite(slot: int, value: int) -> None:
    """Write a pointer into a page that the loader has made read-only."""
    _protect(slot, _READ | _WRITE)
    ctypes.c_void_p.from_address(slot).value = value
    _protect(slot, _READ)


def _protect(address: int, rights: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    if libc.mprotect(address & ~(_PAGE - 1), _PAGE, rights):
        raise OSError(ctypes.get_errno(), "mprotect")
