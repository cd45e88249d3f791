"""Sums over the ranks between cards, by NCCL on a stream of planc's own.

Its C interface is called directly: it takes any stream, so that sums are recorded in the step's CUDA graph, and costs
nothing beside the library that PyTorch brings. PyTorch's own process group has streams and a watchdog of its own, which
asks for events while a graph is recorded; bindings in other packages weigh more than these few calls.

Two ranks add the same two numbers, so that their bits are those of one process that accumulates. Among more, NCCL chooses
the order: the same in every run on the same machine. NVLink multicast, which sums in the switch, is left off.
"""

import ctypes
import importlib.util
import math
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from onnx import TensorProto

from planc.enums import ExchangeKind
from planc.errors import DeviceError
from planc.runtime.cuda.driver import Context
from planc.runtime.device import TensorAddress
from planc.runtime.ranks.group import RankGroup

_LIBRARY = "libnccl.so.2"

_TYPES: dict[int, int] = {TensorProto.FLOAT16: 6, TensorProto.FLOAT: 7, TensorProto.DOUBLE: 8, TensorProto.BFLOAT16: 9}
"""`ncclDataType_t` by ONNX element type."""

_SUM = 0
"""`ncclRedOp_t`."""

_WATCH_S = 0.25
"""Seconds between looks after the other ranks."""


class _Id(ctypes.Structure):
    _fields_ = (("bytes", ctypes.c_ubyte * 128),)


@cache
def _library() -> ctypes.CDLL:
    """The library, with the types of what is called. Raises DeviceError where it is not installed."""
    os.environ.setdefault("NCCL_NVLS_ENABLE", "0")
    library = _loaded()
    pointer, number = ctypes.c_void_p, ctypes.c_int
    library.ncclGetErrorString.restype = ctypes.c_char_p
    library.ncclGetUniqueId.argtypes = [ctypes.POINTER(_Id)]
    library.ncclCommInitRank.argtypes = [ctypes.POINTER(pointer), number, _Id, number]
    buffers: list[Any] = [pointer, pointer, ctypes.c_size_t, number]
    library.ncclAllReduce.argtypes = [*buffers, number, pointer, pointer]
    library.ncclReduce.argtypes = [*buffers, number, number, pointer, pointer]
    library.ncclBroadcast.argtypes = [*buffers, number, pointer, pointer]
    library.ncclCommAbort.argtypes = library.ncclCommDestroy.argtypes = [pointer]
    return library


def _loaded() -> ctypes.CDLL:
    package = importlib.util.find_spec("nvidia")
    folders = (
        [Path(folder) / "nccl" / "lib" for folder in (package.submodule_search_locations or ())] if package else []
    )
    refused: OSError | None = None
    for path in (_LIBRARY, *(str(folder / _LIBRARY) for folder in folders)):
        try:
            return ctypes.CDLL(path)
        except OSError as error:
            refused = error
    raise DeviceError(f"NCCL does not load: {refused}; install it, for example with pip install nvidia-nccl-cu13")


def _checked(function: str, *arguments: Any) -> None:
    status = getattr(_library(), function)(*arguments)
    if status:
        words = _library().ncclGetErrorString(status).decode()
        raise DeviceError(f"NCCL's {function} failed: {words} (error {status})")


class NcclSums:
    """Sums tensors of all ranks in place, on `stream`; every rank queues the same sums in the same order.

    While something is queued or waited for, a thread looks after the other ranks: where one fails, or nothing ends in
    time, it gives the sums up, so that whoever waits for them wakes.
    """

    def __init__(self, group: RankGroup, context: Context, stream: Any) -> None:
        self._group, self._context, self._stream = group, context, stream
        self._communicator = ctypes.c_void_p()
        self._lock, self._since, self._cause = threading.Lock(), 0.0, ""
        name = _Id()
        with group.failing():
            if group.rank == 0:
                _checked("ncclGetUniqueId", ctypes.byref(name))
            text = group.meet("nccl", bytes(name.bytes).hex())[0]
            ctypes.memmove(ctypes.byref(name), bytes.fromhex(text), ctypes.sizeof(name))
            self._connect(name)
        self._stop = threading.Event()
        threading.Thread(target=self._watch, name="planc-nccl", daemon=True).start()

    def _connect(self, name: _Id) -> None:
        """Meet the other ranks, on a thread of its own: NCCL waits for one that does not come for ever."""
        failed: list[Exception] = []

        def connect() -> None:
            try:
                self._context.enter()
                handle = ctypes.byref(self._communicator)
                _checked("ncclCommInitRank", handle, self._group.size, name, self._group.rank)
            except Exception as error:
                failed.append(error)

        thread = threading.Thread(target=connect, daemon=True)
        thread.start()
        ends = time.monotonic() + self._group.timeout_s
        while thread.is_alive():
            thread.join(_WATCH_S)
            cause = self._group.blame()
            if thread.is_alive() and (cause is not None or time.monotonic() > ends):
                late = f"the cards of the ranks did not connect within {self._group.timeout_s:g} s"
                raise self._group.part(cause) if cause else self._group.end(late)
        if failed:
            raise failed[0]

    def queue(self, base: int, kind: ExchangeKind, tensors: Sequence[TensorAddress], roots: Sequence[int] = ()) -> None:
        """Queue the exchange of tensors that lie behind `base`, as one kernel where NCCL can; `roots` as for a plan's.

        The first time NCCL connects the cards and waits for the others. Raises RankError where one does not come.
        """
        with self._watched():
            self._queue(base, kind, tensors, roots)

    def _queue(self, base: int, kind: ExchangeKind, tensors: Sequence[TensorAddress], roots: Sequence[int]) -> None:
        _checked("ncclGroupStart")
        for at, tensor in enumerate(tensors):
            address = ctypes.c_void_p(base + tensor.offset)
            operand = (address, address, math.prod(tensor.shape), _TYPES[tensor.element_type])
            where = (self._communicator, int(self._stream))
            if kind is ExchangeKind.ALL_REDUCE:
                _checked("ncclAllReduce", *operand, _SUM, *where)
            elif kind is ExchangeKind.REDUCE:
                _checked("ncclReduce", *operand, _SUM, roots[at], *where)
            else:
                _checked("ncclBroadcast", *operand, roots[at], *where)
        _checked("ncclGroupEnd")

    def wait(self, synchronize: Any) -> None:
        """Wait for the card by `synchronize`. Raises RankError where another rank is to blame for what does not end."""
        with self._watched():
            synchronize()

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Have the thread look after the other ranks while something is waited for."""
        self._since = time.monotonic()
        try:
            yield
        except DeviceError:
            if not self._cause:
                raise
        finally:
            self._since = 0.0
        if self._cause:
            raise self._group.lost(DeviceError(self._cause))

    def _watch(self) -> None:
        while not self._stop.wait(_WATCH_S):
            since = self._since
            if not since or time.monotonic() - since < 2 * _WATCH_S:
                continue
            cause = self._group.blame()
            if cause is None and time.monotonic() - since > self._group.timeout_s:
                cause = f"the card was busy for over {self._group.timeout_s:g} s"
            if cause is not None:
                self._cause = cause
                self._drop("ncclCommAbort")
                return

    def _drop(self, how: str) -> None:
        with self._lock:
            if self._communicator:
                self._context.enter()
                getattr(_library(), how)(self._communicator)
                self._communicator = ctypes.c_void_p()

    def close(self) -> None:
        """Free what NCCL holds; nothing of it may be under way unless a rank is lost."""
        self._stop.set()
        self._drop("ncclCommAbort" if self._group.parted else "ncclCommDestroy")
