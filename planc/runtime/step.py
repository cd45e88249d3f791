"""A loaded training step: feeds in, outputs out, state kept where the plan says."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import onnx

from planc.enums import Direction
from planc.errors import FeedError, PlanError
from planc.graph.graph import Role, Tensor
from planc.importer.import_model import ImportedModel, import_for
from planc.plan.files import read_plan
from planc.plan.plan import Plan
from planc.runtime.device import Device, SharesArrays
from planc.runtime.dlpack import DeviceArray
from planc.runtime.executor import Executor
from planc.runtime.open import open_device
from planc.runtime.state import read_state, write_state
from planc.verifier.verify import require_valid


class TrainingStep:
    """One training step, executed as its plan says. Use as a context manager, or call `close`.

    `step(feeds)` runs one step and returns the outputs that are not state. State (parameters, optimizer state, running
    statistics) starts from the model's initial values and advances with every step.
    """

    def __init__(self, plan: Plan, imported: ImportedModel, device: Device, replay: bool | None = None) -> None:
        self.plan, self.imported, self.device = plan, imported, device
        self._graph = imported.graph
        self._executor = Executor(plan, imported, device, replay)
        self._host = {slot.storage: slot for slot in plan.host_slots}
        self._copied_out = {plan.residencies[c.residency].storage for c in plan.copies if c.direction is Direction.OUT}
        self._by_name = {tensor.name: tensor for tensor in self._graph.tensors}
        self._state_of = {out: name for name, out in imported.state_names.items()}
        self.steps = 0
        for storage in self._graph.storages:
            if storage.role is Role.CONSTANT and storage.name in imported.constants:
                self._put(self._by_name[storage.name], imported.constants[storage.name])
        initial = imported.file.initial_values
        for name in self.state_names:
            if name in initial:
                self._put(self._by_name[name], self._checked(self._by_name[name], initial[name]))

    @property
    def feed_names(self) -> tuple[str, ...]:
        """Names of the batch inputs that every step needs."""
        tensors, storages = self._graph.tensors, self._graph.storages
        return tuple(tensors[i].name for i in self._graph.inputs if storages[tensors[i].storage].role is Role.BATCH)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs that are not next values of state."""
        return tuple(
            self._graph.tensors[t].name
            for t in self._graph.outputs
            if self._graph.tensors[t].name not in self._state_of
        )

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the state inputs."""
        return tuple(self._graph.tensors[i].name for i in self._graph.state)

    def __call__(self, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Run one step; `feeds` holds every batch input. Raises FeedError naming a missing, unknown or misshapen one."""
        return dict(zip(self.output_names, self.run(None, feeds), strict=True))

    def run(self, output_names: Sequence[str] | None, feeds: Mapping[str, Any]) -> list[np.ndarray]:
        """Run one step and return the named outputs, all but state when None: `InferenceSession.run`'s signature.

        Next values of state may be named too. A feed is an array of the host or, on CUDA, one on the card that follows
        DLPack (PyTorch, CuPy, JAX). With an empty list all outputs stay on the card until `on_device` is asked for one.
        """
        names = self.output_names if output_names is None else tuple(output_names)
        unknown = [n for n in names if n not in self._state_of and n not in self.output_names]
        if unknown:
            raise FeedError(f"unknown output {unknown[0]!r}: the step has {', '.join(self.output_names)} and its state")
        self._feed(feeds)
        self._executor.run_step()
        self.steps += 1
        return [self._fetch(name) for name in names]

    def _feed(self, feeds: Mapping[str, Any]) -> None:
        missing = [name for name in self.feed_names if name not in feeds]
        if missing:
            raise FeedError(f"input {missing[0]!r} is missing: the step needs {', '.join(self.feed_names)}")
        unknown = [name for name in feeds if name not in self.feed_names]
        if unknown:
            raise FeedError(f"unknown input {unknown[0]!r}: the step takes {', '.join(self.feed_names)}")
        checked = [(self._by_name[name], self._checked(self._by_name[name], feeds[name])) for name in self.feed_names]
        for tensor, value in checked:
            self._put(tensor, value)

    def on_device(self, name: str) -> DeviceArray:
        """An output of the last step, or a next value of state, where it is: for `from_dlpack` of any library.

        Its bytes last until the next step. Raises FeedError where outputs live on the host.
        """
        known = self._state_of.get(name, name)
        if known not in self._by_name or (name not in self._state_of and name not in self.output_names):
            raise FeedError(f"unknown output {name!r}: the step has {', '.join(self.output_names)} and its state")
        tensor = self._by_name[known]
        storage = self._graph.storages[tensor.storage].name
        state, residencies = name in self._state_of, self._executor.residencies
        offset = residencies.first(storage) if state else residencies.last(storage)
        slot = self._host.get(storage)
        away = slot is not None and (slot.initial if state else storage in self._copied_out)
        if not isinstance(self.device, SharesArrays) or offset is None or away:
            raise FeedError(f"{name!r} is in host memory after a step: take it from the step's results")
        return self.device.view(offset + tensor.offset, np.dtype(tensor.dtype), tensor.shape)

    def _accepted(self, name: str, value: object) -> np.ndarray | DeviceArray:
        shared = self.device.accept(name, value) if isinstance(self.device, SharesArrays) else None
        return np.asarray(value) if shared is None else shared

    def _checked(self, tensor: Tensor, value: object) -> np.ndarray | DeviceArray:
        array = self._accepted(tensor.name, value)
        if array.shape != tensor.shape or array.dtype.name != tensor.dtype:
            raise FeedError(
                f"{tensor.name!r} has shape {list(array.shape)} of {array.dtype.name}, "
                f"the model takes {list(tensor.shape)} of {tensor.dtype}"
            )
        return array

    def _put(self, tensor: Tensor, value: np.ndarray | DeviceArray) -> None:
        """Place a value where the step expects it at its start, in the slab, on the host, or both."""
        storage = self._graph.storages[tensor.storage].name
        offset = self._executor.residencies.first(storage)
        slot = self._host.get(storage)
        if offset is not None and not (slot is not None and slot.initial):
            self.device.write_slab(offset, value)
        if slot is not None:
            self.device.write_host(slot.offset, value)

    def _fetch(self, name: str) -> np.ndarray:
        if name in self._state_of:
            return self._state(self._state_of[name])
        tensor = self._by_name[name]
        storage = self._graph.storages[tensor.storage].name
        if storage in self._copied_out:
            at = self._host[storage].offset + tensor.offset
            return self.device.read_host(at, np.dtype(tensor.dtype), tensor.shape)
        offset = self._executor.residencies.last(storage)
        if offset is None:
            raise PlanError(f"output {name!r} has no place in the plan; compile it again")
        return self.device.read_slab(offset + tensor.offset, np.dtype(tensor.dtype), tensor.shape)

    def _state(self, name: str) -> np.ndarray:
        tensor = self._by_name[name]
        storage = self._graph.storages[tensor.storage].name
        slot, offset = self._host.get(storage), self._executor.residencies.first(storage)
        if slot is not None and slot.initial:
            return self.device.read_host(slot.offset, np.dtype(tensor.dtype), tensor.shape)
        if offset is None:
            return self.imported.file.initial_values[name]
        return self.device.read_slab(offset, np.dtype(tensor.dtype), tensor.shape)

    def state(self) -> dict[str, np.ndarray]:
        """Current value of every state, by input name."""
        return {name: self._state(name) for name in self.state_names}

    def set_state(self, values: Mapping[str, np.ndarray]) -> None:
        """Replace the state: every state and nothing else must be given. Raises FeedError, and then nothing changes."""
        names = set(self.state_names)
        wrong = sorted(names ^ set(values))
        if wrong:
            raise FeedError(f"state {wrong[0]!r} is {'missing' if wrong[0] in names else 'unknown'}")
        checked = {n: self._checked(self._by_name[n], v) for n, v in values.items()}
        for name, value in checked.items():
            self._put(self._by_name[name], value)

    def save_state(self, path: str | Path) -> None:
        """Write the state as a safetensors file, whole or not at all."""
        write_state(self.state(), Path(path))

    def load_state(self, path: str | Path) -> None:
        """Read a file that `save_state` wrote. Raises FeedError when it does not fit the model."""
        self.set_state(read_state(Path(path)))

    def close(self) -> None:
        """Free the slab, the host tier and all sessions."""
        self.device.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def load(
    plan: str | Path | Plan,
    model: str | Path | onnx.ModelProto | ImportedModel,
    *,
    host_tier: str = "ram",
    measure: bool = False,
    replay: bool | None = None,
) -> TrainingStep:
    """Verify a plan against its model and make it ready to run on the plan's kind of device.

    `host_tier` is `ram` or `file:PATH`; `measure` records the scratch that is really used; `replay` says whether a
    CUDA step is replayed as one CUDA graph or launched; None takes what is faster. Raises PlanError or ModelError for
    unreadable files, VerificationError when the plan does not compute the model, DeviceError when the device refuses.
    """
    name = str(plan) if isinstance(plan, (str, Path)) else "the plan"
    loaded = plan if isinstance(plan, Plan) else read_plan(Path(plan))
    imported = model if isinstance(model, ImportedModel) else import_for(model, loaded.model.hash)
    if loaded.model.hash != imported.graph.content_hash:
        raise PlanError(
            f"{name} was compiled for {loaded.model.file} ({loaded.model.hash[:12]}), not for {imported.file.title} "
            f"({imported.graph.content_hash[:12]}): give that model, or compile this one"
        )
    require_valid(imported.graph, loaded, name)
    device = open_device(loaded.costs.kind, loaded.memory, host_tier, measure)
    try:
        return TrainingStep(loaded, imported, device, replay)
    except BaseException:
        device.close()
        raise
