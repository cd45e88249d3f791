"""What the executor needs of a device: a slab, a host slab, in-order engines, events between them.

The CPU fills this interface with a thread per copy direction; CUDA fills it with streams. Nothing above it knows which
device it is.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol, runtime_checkable

import numpy as np

from planc.enums import ExchangeKind
from planc.importer.submodel import SubModel
from planc.runtime.dlpack import DeviceArray
from planc.runtime.ranks.group import RankGroup


class Engine(IntEnum):
    """An in-order queue of the device."""

    COMPUTE = 0
    OUT = 1
    IN = 2
    EXCHANGE = 3


@runtime_checkable
class Event(Protocol):
    """A point in one engine's queue that another engine, or the host, can wait for."""


@runtime_checkable
class LoadedSegment(Protocol):
    """A loaded stretch of operators with every tensor bound to an address; run by `Device.launch`."""


@dataclass(frozen=True, slots=True)
class TensorAddress:
    """Where a sub-model's port lives: bytes from the slab's start, ONNX element type, shape."""

    offset: int
    element_type: int
    shape: tuple[int, ...]


@runtime_checkable
class PinsEngines(Protocol):
    """A device with libraries whose engines a plan may pin."""

    def require_engines(self, versions: Mapping[str, str]) -> None:
        """Raise DeviceError unless the libraries are of these versions."""
        ...


@runtime_checkable
class Exchanges(Protocol):
    """A device that exchanges with the other ranks of a group."""

    def join(self, group: RankGroup) -> None:
        """Prepare for sums with the other ranks, all of which do so too. Raises RankError, DeviceError."""
        ...

    def exchange(self, kind: ExchangeKind, tensors: Sequence[TensorAddress], roots: Sequence[int]) -> None:
        """Queue the exchange of tensors of the slab, in their bytes, on the exchange engine; `roots` has the rank of each
        that is summed for one or given by one."""
        ...


class Device(Protocol):
    """One device with memory for one plan. All sizes and offsets are bytes.

    `kind` is `cpu` or `cuda`, `index` says which of several.
    """

    kind: str

    bound_to_thread: bool
    """Whether only the thread that made the device may use it; else any, one at a time."""

    counts_seeds_up: bool
    """Whether a Dropout draws in each run what one of the next seed would have drawn in the run before."""

    @property
    def index(self) -> int: ...

    @property
    def peak_scratch_bytes(self) -> int:
        """Largest scratch of one operator since loading; 0 unless measured."""
        ...

    def load(self, model: SubModel, addresses: Mapping[str, TensorAddress], form: str = "") -> LoadedSegment:
        """Bind a sub-model's ports at slab offsets. Identical sub-models of one form share one session.

        Raises DeviceError for a form, a name of session settings, that the device does not know.
        """
        ...

    def unload(self, segment: LoadedSegment) -> None:
        """Drop a segment's session, which no other segment shares: loading it again makes a new one."""
        ...

    def launch(self, segment: LoadedSegment) -> None:
        """Queue a segment on the compute engine."""
        ...

    def copy(self, engine: Engine, slab_offset: int, host_offset: int, size: int) -> None:
        """Queue a transfer on a copy engine; its direction is the engine's."""
        ...

    def record(self, engine: Engine) -> Event:
        """An event after everything queued on `engine` so far."""
        ...

    def wait(self, engine: Engine, event: Event) -> None:
        """Make `engine` wait for `event` before what is queued on it next."""
        ...

    def synchronize(self) -> None:
        """Return when all engines are idle; raises the first error that one of them met."""
        ...

    def recover(self) -> None:
        """Make all engines idle after a step that failed, whatever it left queued, and forget its errors.

        Raises DeviceError where the device cannot be used any more.
        """
        ...

    def capture(self, queue: Callable[[], None]) -> Callable[[], None]:
        """A cheaper way to queue what `queue` queues, addresses and order included, or `queue` itself.

        Called between steps, once every segment has run.
        """
        ...

    def write_slab(self, offset: int, value: Any) -> None:
        """Put an array of the host, or one that the device accepted, at a slab offset, while the engines are idle."""
        ...

    def read_slab(self, offset: int, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        """A copy of the array at a slab offset, while the engines are idle."""
        ...

    def write_host(self, offset: int, value: Any) -> None:
        """Put an array into the host slab."""
        ...

    def read_host(self, offset: int, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        """A copy of the array at a host-slab offset."""
        ...

    def close(self) -> None:
        """Free everything; the device is unusable afterwards. Safe to call twice."""
        ...


@runtime_checkable
class SharesArrays(Protocol):
    """A device whose arrays other libraries can hold: it takes feeds that are there already, and lends outputs."""

    def accept(self, name: str, value: object) -> DeviceArray | None:
        """The array behind `value` where it lives on this device, None for anything else. Raises FeedError."""
        ...

    def read(self, array: DeviceArray) -> np.ndarray:
        """A copy of an accepted array on the host."""
        ...

    def view(self, offset: int, dtype: np.dtype, shape: tuple[int, ...]) -> DeviceArray:
        """The array at a slab offset, without a copy."""
        ...
