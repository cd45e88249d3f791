"""The CUDA driver, through cuda-bindings, with every refusal turned into a DeviceError.

Only what the runtime needs: memory, three streams, events, and graphs. All sizes are bytes.
"""

import resource
from dataclasses import dataclass
from typing import Any

from planc.devices import device_name
from planc.errors import DeviceError
from planc.free_memory import free_memory
from planc.units import format_bytes

try:
    from cuda.bindings import driver as driver
except ImportError:
    driver = None

_INSTALL = "install planc[cuda] (cuda-bindings, cuda-core) and an NVIDIA driver for CUDA 13"


def call(name: str, *arguments: object) -> Any:
    """Call a driver function; its results without the status: None, one value or a tuple.

    Raises DeviceError naming the function and the driver's own words.
    """
    if driver is None:
        raise DeviceError(f"CUDA is not usable: the package cuda-bindings is missing; {_INSTALL}")
    try:
        status, *results = getattr(driver, name)(*arguments)
    except RuntimeError as error:  # cuda-bindings found no driver library, or one without this function
        raise DeviceError(f"CUDA is not usable: {error}; {_INSTALL}") from error
    if status != driver.CUresult.CUDA_SUCCESS:
        raise CudaError(name, int(status), _words(status))
    return results[0] if len(results) == 1 else tuple(results) or None


class CudaError(DeviceError):
    """A driver call was refused; `status` is CUresult's number."""

    def __init__(self, function: str, status: int, words: str) -> None:
        super().__init__(f"CUDA's {function} failed: {words} (error {status})")
        self.function, self.status = function, status


def _words(status: object) -> str:
    failed, text = driver.cuGetErrorString(status)
    return text.decode() if text and failed == driver.CUresult.CUDA_SUCCESS else "unknown error"


@dataclass(frozen=True)
class CudaInfo:
    """A card: name, compute capability, multiprocessors, memory in all and free (bytes), driver's CUDA version."""

    name: str
    capability: tuple[int, int]
    multiprocessors: int
    total_bytes: int
    free_bytes: int
    driver_version: str


class Context:
    """The primary context of card `index`, made current on this thread; shared with ONNX Runtime and PyTorch.

    Raises DeviceError when there is no driver or no such card.
    """

    def __init__(self, index: int = 0) -> None:
        call("cuInit", 0)
        count = call("cuDeviceGetCount")
        if index >= count:
            raise DeviceError(f"there is no CUDA device {index}: this machine has {count}")
        self.index = index
        self.device = call("cuDeviceGet", index)
        self.handle = call("cuDevicePrimaryCtxRetain", self.device)
        self.enter()

    def enter(self) -> None:
        """Make the context current on the calling thread."""
        call("cuCtxSetCurrent", self.handle)

    def info(self) -> CudaInfo:
        """What the driver tells of the card now."""
        attribute = driver.CUdevice_attribute
        major, minor, processors = (
            call("cuDeviceGetAttribute", which, self.device)
            for which in (
                attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
                attribute.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
            )
        )
        free, total = call("cuMemGetInfo")
        version = call("cuDriverGetVersion")
        name = call("cuDeviceGetName", 256, self.device).split(b"\0", 1)[0].decode()
        return CudaInfo(name, (major, minor), processors, total, free, f"{version // 1000}.{version % 1000 // 10}")

    def close(self) -> None:
        """Release the primary context; it lives on while others use it."""
        call("cuDevicePrimaryCtxRelease", self.device)


def allocate(size: int, purpose: str) -> int:
    """Address of `size` bytes of device memory (at least one). Raises DeviceError naming what is free."""
    try:
        return int(call("cuMemAlloc", max(size, 1)))
    except CudaError as error:
        free, total = call("cuMemGetInfo")
        raise DeviceError(
            f"{purpose} needs {format_bytes(size)} of device memory, the card has {format_bytes(free)} of "
            f"{format_bytes(total)} free: compile for a smaller budget, or free the card ({error})"
        ) from error


def allocate_pinned(size: int, purpose: str) -> int:
    """Address of `size` bytes of page-locked host memory (at least one). Raises DeviceError naming the limits."""
    try:
        return int(call("cuMemHostAlloc", max(size, 1), 0))
    except CudaError as error:
        raise DeviceError(
            f"{purpose} needs {format_bytes(size)} of page-locked host memory, which the host refuses "
            f"({pinned_limits()}): compile for a larger budget, or raise the limit ({error})"
        ) from error


def pinned_limits() -> str:
    """The limits that bound page-locked memory here, in words."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    locked = "none" if soft == resource.RLIM_INFINITY else format_bytes(soft)
    return f"locked memory limit {locked}, {format_bytes(free_memory())} of memory free within the process's limits"


def new_stream() -> Any:
    """A stream that does not wait for the legacy default stream."""
    return call("cuStreamCreate", driver.CUstream_flags.CU_STREAM_NON_BLOCKING)


def new_event(timing: bool = False) -> Any:
    """An event, with time stamps when `timing`."""
    flags = driver.CUevent_flags
    return call("cuEventCreate", flags.CU_EVENT_DEFAULT if timing else flags.CU_EVENT_DISABLE_TIMING)


def elapsed_ns(start: object, end: object) -> int:
    """Time between two timing events that are past."""
    return int(call("cuEventElapsedTime", start, end) * 1e6)


def card_count() -> int:
    """How many cards this machine has. Raises DeviceError without a driver."""
    call("cuInit", 0)
    return int(call("cuDeviceGetCount"))


def card_identity(index: int) -> tuple[str, ...]:
    """What tells card `index` from another: its place, name and driver. Raises DeviceError where there is none."""
    context = Context(index)
    info = context.info()
    context.close()
    return device_name("cuda", index), info.name, info.driver_version
