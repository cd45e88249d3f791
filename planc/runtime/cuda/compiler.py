"""CUDA C on the card: compiled by NVRTC, loaded once for each card, launched through the driver."""

import ctypes
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from planc.errors import DeviceError
from planc.runtime.cuda.driver import call, driver

try:
    from cuda.bindings import nvrtc
except ImportError:
    nvrtc = None


@cache
def can_compile() -> bool:
    """Whether NVRTC loads."""
    if nvrtc is None:
        return False
    try:
        status, *_ = nvrtc.nvrtcVersion()
    except RuntimeError:  # cuda-bindings found no library
        return False
    return bool(status == nvrtc.nvrtcResult.NVRTC_SUCCESS)


def load(texts: Mapping[str, str], preamble: str = "", contract: bool = False) -> None:
    """Compile the kernels that the current card does not have yet, as one module behind `preamble`, which stays.

    Products and sums are contracted only where `contract` says so. Raises DeviceError with the compiler's words.
    """
    known = handles()
    missing = {name: text for name, text in texts.items() if name not in known}
    if missing:
        source = preamble + "".join(dict.fromkeys(missing.values()))
        module = call("cuModuleLoadData", compiled(source, _architecture(int(call("cuCtxGetDevice"))), contract))
        known.update({name: int(call("cuModuleGetFunction", module, name.encode())) for name in missing})


def handles() -> dict[str, int]:
    """Kernels of the current card by name."""
    return _LOADED.setdefault(int(call("cuCtxGetDevice")), {})


_LOADED: dict[int, dict[str, int]] = {}
"""By card; a card's primary context keeps them as long as the process lives."""


def launch(
    function: int, grid: tuple[int, int, int], block: int, addresses: Sequence[int], stream: int, shared: int = 0
) -> None:  # fmt: skip
    """Queue a kernel all of whose arguments are addresses. Raises DeviceError."""
    values = (ctypes.c_uint64 * len(addresses))(*addresses)
    first = ctypes.addressof(values)
    pointers = (ctypes.c_void_p * len(addresses))(*range(first, first + 8 * len(addresses), 8))
    status = _cu_launch_kernel()(function, *grid, block, 1, 1, shared, stream, pointers, None)
    if status:
        raise DeviceError(f"CUDA's cuLaunchKernel failed with error {status}")


def allow_shared(function: int, size: int) -> None:
    """Let a kernel take `size` bytes of dynamic shared memory, where that is more than the 48 KiB that all may take."""
    if size > _COMMON_SHARED:
        kinds = driver.CUfunction_attribute
        call("cuFuncSetAttribute", function, kinds.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, size)


_COMMON_SHARED = 48 << 10


@cache
def _cu_launch_kernel() -> "ctypes._NamedFuncPointer":
    """The driver's function itself: cuda-bindings would pack the arguments anew for every launch."""
    function = ctypes.CDLL("libcuda.so.1").cuLaunchKernel
    number = ctypes.c_uint
    function.argtypes = [ctypes.c_void_p, *[number] * 7, *[ctypes.c_void_p] * 3]
    return function


def _architecture(device: int) -> str:
    kinds = driver.CUdevice_attribute
    major = call("cuDeviceGetAttribute", kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device)
    minor = call("cuDeviceGetAttribute", kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device)
    return f"sm_{major}{minor}"


def compiled(text: str, architecture: str, contract: bool) -> bytes:
    """Machine code of CUDA C for an architecture, such as `sm_90`; needs NVRTC, but no card. Raises DeviceError."""
    program = _ask("nvrtcCreateProgram", text.encode(), b"planc.cu", 0, [], [])
    fmad = b"--fmad=true" if contract else b"--fmad=false"
    options = [f"--gpu-architecture={architecture}".encode(), fmad, b"--std=c++17"]
    try:
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            log = bytes(_ask("nvrtcGetProgramLogSize", program))
            _ask("nvrtcGetProgramLog", program, log)
            raise DeviceError(f"NVRTC refuses a kernel of planc's:\n{log.decode(errors='replace')}\n{text}")
        code = bytes(_ask("nvrtcGetCUBINSize", program))
        _ask("nvrtcGetCUBIN", program, code)
    finally:
        nvrtc.nvrtcDestroyProgram(program)
    return code


def _ask(name: str, *arguments: object) -> Any:
    status, *results = getattr(nvrtc, name)(*arguments)
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise DeviceError(f"{name} failed: {nvrtc.nvrtcGetErrorString(status)[1].decode()}")
    return results[0] if results else 0
