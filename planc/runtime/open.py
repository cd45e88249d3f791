"""Opens the device that a plan was made for, and ordinary sessions beside it."""

import onnxruntime as ort

from planc.errors import DeviceError
from planc.plan.plan import Memory
from planc.runtime.cpu import CpuDevice
from planc.runtime.cuda.device import CudaDevice
from planc.runtime.cuda.driver import Context
from planc.runtime.cuda.provider import NAME, cuda_session, load_libraries
from planc.runtime.device import Device
from planc.runtime.ort.sessions import faithful_options


def open_device(kind: str, memory: Memory, host_tier: str = "ram", measure: bool = False) -> Device:
    """A device of `kind` (`cpu`, or `cuda` with an optional `:index`) with the plan's memory.

    Raises DeviceError for a kind that planc has no runtime for, and where the device refuses.
    """
    name, _, index = kind.partition(":")
    sizes = (memory.slab_bytes, memory.host_bytes, memory.scratch_bytes)
    if name == "cpu":
        return CpuDevice(*sizes, host_tier, measure)
    if name == "cuda":
        return CudaDevice(*sizes, host_tier, measure, int(index or 0))
    raise DeviceError(f"the plan is for a {kind!r} device; this runtime has cpu and cuda: compile with --device cpu")


def default_device() -> str:
    """`cuda` where a card, its driver and ONNX Runtime's provider are usable, else `cpu`."""
    try:
        load_libraries()
        Context().close()
    except DeviceError:
        return "cpu"
    return "cuda" if NAME in ort.get_available_providers() else "cpu"


def open_session(source: str | bytes, kind: str, index: int = 0) -> ort.InferenceSession:
    """A session that runs a model's operators as given, on the device of `kind` alone, and manages its own memory."""
    if kind == "cuda":
        return cuda_session(source, index)
    return ort.InferenceSession(source, faithful_options(), providers=["CPUExecutionProvider"])
