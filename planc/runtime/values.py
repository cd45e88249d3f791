"""Where the tensors of a step are between two steps, and their values there."""

import numpy as np

from planc.enums import Direction
from planc.errors import FeedError, PlanError
from planc.graph.graph import Role, Tensor
from planc.importer.import_model import ImportedModel
from planc.plan.plan import Plan
from planc.plan.residency_index import ResidencyIndex
from planc.runtime.device import Device, SharesArrays
from planc.runtime.dlpack import DeviceArray
from planc.runtime.feeds import Value


class Values:
    """Reads and writes batch inputs, constants, state and outputs at the places that a plan gives them.

    A state that nothing of the step touches has no place in a plan; its value is kept here.
    """

    def __init__(self, plan: Plan, imported: ImportedModel, device: Device, residencies: ResidencyIndex) -> None:
        self._graph, self._device, self._residencies = imported.graph, device, residencies
        self._host = {slot.storage: slot for slot in plan.host_slots}
        self._copied_out = {plan.residencies[c.residency].storage for c in plan.copies if c.direction is Direction.OUT}
        self._aside: dict[str, np.ndarray] = {}

    def put(self, tensor: Tensor, value: Value) -> None:
        """Place a value where the step expects it at its start, in the slab, on the host, or both."""
        storage = self._graph.storages[tensor.storage]
        offset, slot = self._residencies.first(storage.name), self._host.get(storage.name)
        if offset is not None and not (slot is not None and slot.initial):
            self._device.write_slab(offset, value)
        if slot is not None:
            self._device.write_host(slot.offset, value)
        if storage.role is Role.STATE and self._carried(storage.name) is None:
            shared = isinstance(value, DeviceArray) and isinstance(self._device, SharesArrays)
            self._aside[tensor.name] = self._device.read(value) if shared else np.array(value)  # type: ignore[attr-defined]

    def state(self, tensor: Tensor) -> np.ndarray:
        """A copy of the current value of a state."""
        if tensor.name in self._aside:
            return self._aside[tensor.name].copy()
        return self._read(tensor, self._carried(self._graph.storages[tensor.storage].name))

    def output(self, tensor: Tensor) -> np.ndarray:
        """A copy of an output that the last step left."""
        return self._read(tensor, self._left(tensor))

    def on_device(self, tensor: Tensor, is_state: bool) -> DeviceArray:
        """The same, or the value of a state, where it is. Raises FeedError where that is the host."""
        storage = self._graph.storages[tensor.storage].name
        found = self._carried(storage) if is_state else self._left(tensor)
        if not isinstance(self._device, SharesArrays) or found is None or found[0]:
            raise FeedError(f"{tensor.name!r} is in host memory after a step: take it from the step's results")
        return self._device.view(found[1] + tensor.offset, np.dtype(tensor.dtype), tensor.shape)

    def _carried(self, storage: str) -> tuple[bool, int] | None:
        """Whether a state or constant is on the host between two steps, and where there or in the slab."""
        slot, offset = self._host.get(storage), self._residencies.first(storage)
        if slot is not None and slot.initial:
            return True, slot.offset
        return None if offset is None else (False, offset)

    def _left(self, tensor: Tensor) -> tuple[bool, int] | None:
        """The same of an output: a view of a state's next value is where the next step expects the state."""
        storage = self._graph.storages[tensor.storage]
        if storage.role in (Role.STATE, Role.CONSTANT):
            return self._carried(storage.name)
        if storage.name in self._copied_out:
            return True, self._host[storage.name].offset
        offset = self._residencies.last(storage.name)
        return None if offset is None else (False, offset)

    def _read(self, tensor: Tensor, place: tuple[bool, int] | None) -> np.ndarray:
        if place is None:
            raise PlanError(f"{tensor.name!r} has no place in the plan; compile it again")
        on_host, offset = place
        read = self._device.read_host if on_host else self._device.read_slab
        return read(offset + tensor.offset, np.dtype(tensor.dtype), tensor.shape)
