"""Opens the device that a plan was made for, and ordinary sessions beside it."""

import onnxruntime as ort

from planc.devices import device_words, find_device
from planc.enums import HostTierKind
from planc.errors import DeviceError
from planc.plan.plan import Memory
from planc.runtime.device import Device


def open_device(
    name: str, memory: Memory, host_tier: str | None = None, measure: bool = False, local: int | None = None
) -> Device:
    """The device `name` (`cpu`, `cuda`, `cuda:1`) with the plan's memory; without a `host_tier` one of the kind that the
    plan's costs hold for. With `local`, the device of that rank of this machine, where there are several of the kind.

    Raises DeviceError for one that planc has no runtime for, and where the device refuses.
    """
    found = find_device(name)
    if found is None:
        raise DeviceError(
            f"the plan is for a {name!r} device; this runtime has {device_words()}: compile for one of them"
        )
    kind, index = found
    index = local if local is not None and kind.indexed else index
    if host_tier is None and memory.host_tier is HostTierKind.RAM:
        host_tier = memory.host_tier
    device: Device = kind.open((memory.slab_bytes, memory.host_bytes, memory.scratch_bytes), host_tier, measure, index)
    return device


def open_session(source: str | bytes, name: str, index: int = 0) -> ort.InferenceSession:
    """A session that runs a model's operators as given, on the device kind `name` alone, and manages its own memory."""
    found = find_device(name)
    if found is None:
        raise DeviceError(f"no sessions on a {name!r} device; this runtime has {device_words()}")
    return found[0].session(source, index or found[1])
