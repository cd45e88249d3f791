"""The list of devices: one record for each kind, found by name. No other file compares device names.

A record says where its parts are by `module:name` and loads them when they are asked for, so that the list costs
nothing to import and lies below everything that it names. To add a device, write the parts (docs/devices.md says what
each has to do) and `register` a record.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any

from planc.errors import DeviceError
from planc.registry import Registry

AUTO = "auto"

_MANY = 1 << 30


@dataclass(frozen=True)
class DeviceKind:
    """What planc knows of one kind of device. Parts are given as `module:name`; `index` says which of several."""

    name: str
    preference: int
    """`auto` takes the usable kind with the highest."""
    indexed: bool
    """Whether `name:INDEX` is meant, too."""
    usable_part: str
    """() → whether one is here and works."""
    device_part: str
    """(slab, host and scratch bytes, host tier, measure, index) → `planc.runtime.device.Device`."""
    session_part: str
    """(model or its path, index) → an ordinary session on this device alone, which manages its own memory."""
    meter_part: str
    """(index) → `planc.profiling.meter.Meter`."""
    identity_part: str
    """(index) → words that tell this device from others of its kind, for caches."""
    fuses_part: str
    """() → whether operators of planc's own (`planc.graph.fused`) have kernels here."""
    places_scratch_part: str
    """() → whether operators' scratch can lie inside the slab."""
    forms: str
    """Operator forms that suit it (`planc.training.emit.forms`)."""
    exchange_meter_part: str = ""
    """(ranks.group.RankGroup) → meter of exchanges with the other ranks; none where the device does not exchange."""
    count_part: str = ""
    """() → how many ranks of this machine can have a device each; any number where nothing is said."""
    kernels_part: str = ""
    """(imported step) → version of the kernels of planc's own that it uses here, empty for none; nothing where there are
    none whose times could change."""
    in_process: bool = False
    """Whether its memory is that of the process, so that what is swapped to memory saves none."""

    def _part(self, name: str) -> Callable[..., Any]:
        part: Callable[..., Any] = resolve_name(name)
        return part

    def usable(self) -> bool:
        return bool(self._part(self.usable_part)())

    def open(self, sizes: tuple[int, int, int], host_tier: str | None, measure: bool, index: int) -> Any:
        """A device with slab, host slab and scratch of `sizes` bytes. Raises DeviceError where it refuses."""
        return self._part(self.device_part)(*sizes, host_tier, measure, index)

    def session(self, source: str | bytes, index: int) -> Any:
        return self._part(self.session_part)(source, index)

    def meter(self, index: int) -> Any:
        """Raises DeviceError where the device is unusable."""
        return self._part(self.meter_part)(index)

    def exchange_meter(self, group: Any) -> Any:
        """Raises DeviceError where the device does not exchange."""
        if not self.exchange_meter_part:
            raise DeviceError(f"a {self.name} device exchanges nothing with other ranks")
        return self._part(self.exchange_meter_part)(group)

    def count(self) -> int:
        return int(self._part(self.count_part)()) if self.count_part else _MANY

    def kernel_version(self, imported: Any) -> str:
        """Empty where the step uses none."""
        return str(self._part(self.kernels_part)(imported)) if self.kernels_part else ""

    def identity(self, index: int) -> tuple[str, ...]:
        return tuple(self._part(self.identity_part)(index))

    def fuses(self) -> bool:
        return bool(self._part(self.fuses_part)())

    def places_scratch(self) -> bool:
        return bool(self._part(self.places_scratch_part)())


DEVICES: Registry[str, DeviceKind] = Registry("the device")


def register(kind: DeviceKind) -> None:
    """Add a device to the list. Raises InternalError when its name is taken."""
    DEVICES.add([kind.name], kind)


register(
    DeviceKind(
        name="cpu",
        preference=0,
        indexed=False,
        usable_part="planc.runtime.cpu:usable",
        device_part="planc.runtime.cpu:open_cpu",
        session_part="planc.runtime.cpu_session:open_session",
        meter_part="planc.profiling.cpu:open_meter",
        identity_part="planc.profiling.host:identity",
        fuses_part="planc.runtime.cpu:fuses",
        places_scratch_part="planc.runtime.ort.c_api:can_place_scratch",
        forms="cpu",
        exchange_meter_part="planc.profiling.cpu_exchange:open_meter",
        kernels_part="planc.runtime.onednn.version:kernel_version",
        in_process=True,
    )
)
register(
    DeviceKind(
        name="cuda",
        preference=1,
        indexed=True,
        usable_part="planc.runtime.cuda.provider:usable",
        device_part="planc.runtime.cuda.device:CudaDevice",
        session_part="planc.runtime.cuda.provider:cuda_session",
        meter_part="planc.profiling.cuda:CudaMeter",
        identity_part="planc.runtime.cuda.driver:card_identity",
        fuses_part="planc.runtime.cuda.fused:can_fuse",
        places_scratch_part="planc.runtime.cuda.provider:places_scratch",
        forms="cuda",
        exchange_meter_part="planc.profiling.cuda_exchange:open_meter",
        count_part="planc.runtime.cuda.driver:card_count",
        kernels_part="planc.runtime.cuda.kernel_version:kernel_version",
    )
)


def device_name(kind: str, index: int) -> str:
    """How `find_device` finds that device: `cuda`, `cuda:1`."""
    return kind if index == 0 else f"{kind}:{index}"


def find_device(text: str) -> tuple[DeviceKind, int] | None:
    """The kind and index meant by `cpu`, `cuda`, `cuda:1`, in any case; None for anything else."""
    name, colon, index = text.lower().partition(":")
    kind = DEVICES.get(name)
    if kind is None or (colon and not (kind.indexed and index.isdecimal())):
        return None
    return kind, int(index or 0)


def preferred_device() -> DeviceKind:
    """The usable kind that `auto` means."""
    ranked = sorted(DEVICES.values(), key=lambda kind: -kind.preference)
    return next(kind for kind in ranked if kind.usable())


def device_words() -> str:
    """The devices as a user may name them: `cpu, cuda and cuda:INDEX`."""
    words = [word for kind in DEVICES.values() for word in (kind.name, f"{kind.name}:INDEX")[: 1 + kind.indexed]]
    return f"{', '.join(words[:-1])} and {words[-1]}"
