"""Scratch of CUDA sessions: planc's own allocator where ONNX Runtime takes one, else one arena of the process.

ONNX Runtime's arena splits its free bytes for each session anew and joins them only when the session's run ends: in a run
of many operators a small workspace early keeps a large one later from fitting, although nothing else is in use.
"""

import ctypes
from functools import cache

from planc.runtime.cuda.provider import load_libraries
from planc.runtime.scratch import ScratchAllocator


class DeviceHeap:
    """Device memory outside of the plan: what sessions keep, and what an operator asks beyond its scratch."""

    def __init__(self) -> None:
        runtime = ctypes.CDLL("libcudart.so.13")
        self._allocate, self._free = runtime.cudaMalloc, runtime.cudaFree
        self._allocate.argtypes = [ctypes.POINTER(ctypes.c_void_p), ctypes.c_size_t]
        self._free.argtypes = [ctypes.c_void_p]

    def allocate(self, size: int) -> int | None:
        """Address of `size` bytes, None when the card has none left."""
        address = ctypes.c_void_p()
        return address.value if self._allocate(ctypes.byref(address), max(size, 1)) == 0 else None

    def free(self, address: int) -> None:
        """Give back what `allocate` gave."""
        self._free(address)


@cache
def scratch_allocator(index: int) -> ScratchAllocator | None:
    """The process's allocator on card `index`; None where ONNX Runtime does not take one."""
    load_libraries()
    allocator = ScratchAllocator(DeviceHeap())
    return allocator if allocator.register("Cuda", index) else None
