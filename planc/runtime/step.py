"""A loaded training step: feeds in, outputs out, state kept where the plan says."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import onnx

from planc.errors import FeedError, PlanError
from planc.garbage import paused
from planc.graph.graph import Role, Tensor
from planc.importer.import_model import ImportedModel, import_for
from planc.plan.plan import Plan
from planc.runtime.beside import beside_bytes
from planc.runtime.device import Device, Exchanges, PinsEngines
from planc.runtime.dlpack import DeviceArray
from planc.runtime.executor import Executor
from planc.runtime.feeds import checked, checked_feeds
from planc.runtime.guard import Guard
from planc.runtime.inputs import StepInputs
from planc.runtime.open import open_device
from planc.runtime.own_kernels import require_kernels, tell_of_other_runtime
from planc.runtime.ranks.group import RankGroup
from planc.runtime.ranks.together import Snapshot, Together, greet, group_for
from planc.runtime.resident import release_unused
from planc.runtime.state import Generators, read_checkpoint, write_state
from planc.runtime.values import Values
from planc.verifier.verify import require_valid


class TrainingStep:
    """One training step, executed as its plan says. Use as a context manager, or call `close`.

    `step(feeds)` runs one step and returns the outputs that are not state. State (parameters, optimizer state, running
    statistics, the positions of random generators) starts from the model's initial values and advances with every step.

    A step is whole or has not happened: feeds are checked before it begins, signals are handled after it ends, and where
    it fails half-way nothing but `load_state`, `set_state` and `close` is allowed. Threads wait for each other; on a
    card, only the thread that loaded the step may use it. What is not allowed raises DeviceError.
    """

    def __init__(
        self,
        plan: Plan,
        imported: ImportedModel,
        device: Device,
        replay: bool | None = None,
        seed: int = 0,
        group: RankGroup | None = None,
    ) -> None:
        self.plan, self.imported, self.device, self.seed = plan, imported, device, seed
        self._graph = imported.graph
        self._guard = Guard(device.bound_to_thread)
        self._together = Together(group, self._graph.shards)
        if group is not None and isinstance(device, Exchanges):
            device.join(group)
        self._executor = Executor(plan, imported, device, replay, seed, rank=self._together.rank)
        self._values = Values(plan, imported, device, self._executor.residencies)
        self._by_name = {tensor.name: tensor for tensor in self._graph.tensors}
        self._state_of = {out: name for name, out in imported.state_names.items()}
        self._inputs = StepInputs(imported)
        self._inputs.be(self._together.rank)
        self.steps = 0
        self._put_constants()
        initial = imported.file.initial_values
        self._unset = tuple(name for name in self.state_names if name not in initial)
        for name in self.state_names:
            if name in initial:
                self._values.put(self._by_name[name], checked(device, self._by_name[name], initial[name]))

    @property
    def rank(self) -> int:
        """Which of the ranks this process is, 0 for a step alone."""
        return self._together.rank

    @property
    def feed_names(self) -> tuple[str, ...]:
        """Names of the batch inputs that every step needs."""
        return self._inputs.names

    @property
    def hyperparameters(self) -> dict[str, tuple[float | None, ...]]:
        """What the next step uses, by name, one value per parameter group; None for a group without it."""
        return self._inputs.hyperparameters

    def set_hyperparameters(self, **values: object) -> None:
        """Change hyper-parameters from the next step on: a number for all parameter groups, or one per group.

        Raises FeedError for one that the step does not have.
        """
        with self._guard.use(torn=True):
            self._inputs.set(values)

    @property
    def _batch(self) -> list[Tensor]:
        tensors, storages = self._graph.tensors, self._graph.storages
        return [tensors[i] for i in self._graph.inputs if storages[tensors[i].storage].role is Role.BATCH]

    @property
    def predicted_growth_bytes(self) -> int:
        """By how much the process is expected to grow from before the model was read to the end of a step; 0 on a card."""
        memory = getattr(self.device, "memory_bytes", 0)
        return memory + beside_bytes(self.imported, self._executor.parts) if memory else 0

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs that are not next values of state."""
        return tuple(self.imported.outputs)

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the state inputs."""
        return tuple(self._graph.tensors[i].name for i in self._graph.state)

    def __call__(self, feeds: Mapping[str, Any], **hyperparameters: object) -> dict[str, np.ndarray]:
        """Run one step; `feeds` holds every batch input. Raises FeedError naming a missing, unknown or misshapen one, or
        one whose values cannot be right, and DeviceError where the step cannot be used or fails.

        A hyper-parameter given by name (`lr=1e-3`, or one number per parameter group) holds from this step on.
        """
        with self._guard.use(), self._inputs.trying(hyperparameters):
            return dict(zip(self.output_names, self.run(None, feeds), strict=True))

    def run(self, output_names: Sequence[str] | None, feeds: Mapping[str, Any]) -> list[np.ndarray]:
        """Run one step and return the named outputs, all but state when None: `InferenceSession.run`'s signature.

        Next values of state may be named too. A feed is an array of the host or, on CUDA, one on the card that follows
        DLPack (PyTorch, CuPy, JAX). With an empty list all outputs stay on the card until `on_device` is asked for one.
        """
        names = self.output_names if output_names is None else tuple(output_names)
        for name in names:
            self._check_output(name)
        with self._guard.use(), self._inputs.trying({}), self._stepping():
            self._check_initial()
            found = checked_feeds(self.device, self._graph, self._batch, self._inputs.resolved(feeds))
            with self._guard.changing():
                for tensor, value in found:
                    self._values.put(tensor, value)
                self._executor.run_step()
            self.steps += 1
            return [self._fetch(name) for name in names]

    def _stepping(self) -> AbstractContextManager[None]:
        return self._together.stepping(self.steps, self._state, self._inputs.hyperparameters)

    def on_device(self, name: str) -> DeviceArray:
        """An output of the last step, or a next value of state, where it is: for `from_dlpack` of any library.

        Its bytes last until the next step. Raises FeedError where outputs live on the host.
        """
        self._check_output(name)
        with self._guard.use():
            state = self._state_of.get(name)
            tensor = self._graph.tensors[self.imported.outputs[name]] if state is None else self._by_name[state]
            return self._values.on_device(tensor, state is not None)

    def _check_output(self, name: str) -> None:
        if name not in self._state_of and name not in self.imported.outputs:
            raise FeedError(f"unknown output {name!r}: the step has {', '.join(self.output_names)} and its state")

    def _check_initial(self) -> None:
        if self._unset:
            raise FeedError(
                f"state {self._unset[0]!r} has no initial value in {self.imported.file.title}: give every state one "
                "with set_state or load_state"
            )

    def _put_constants(self) -> None:
        for storage in self._graph.storages:
            if storage.role is Role.CONSTANT and storage.name in self.imported.constants:
                self._values.put(self._by_name[storage.name], self.imported.constants[storage.name])

    def _fetch(self, name: str) -> np.ndarray:
        if name in self._state_of:
            return self._values.state(self._by_name[self._state_of[name]])
        return self._values.output(self._graph.tensors[self.imported.outputs[name]])

    def state(self) -> dict[str, np.ndarray]:
        """Current value of every state that this rank has, by input name. Raises FeedError where one has not been given a
        value yet."""
        with self._guard.use():
            self._check_initial()
            return self._state()

    def snapshot(self) -> Snapshot:
        """`state` and `generators` of one moment: no other thread's step comes between the two."""
        with self._guard.use():
            return self.state(), self.generators

    def _state(self) -> dict[str, np.ndarray]:
        return {name: self._values.state(self._by_name[name]) for name in self.state_names}

    def set_state(self, values: Mapping[str, Any]) -> None:
        """Replace the state: every state and nothing else must be given, but for what belongs to other ranks, which is
        left out. Raises FeedError, and then nothing changes.

        Random generators stay where they are; after a step that failed they go back to where it began.
        """
        self._replace(values, None)

    @property
    def generators(self) -> Generators | None:
        """Where random operators are, None for a step without any."""
        return Generators(self._executor.drawn, self.seed) if self._executor.draws else None

    def save_state(self, path: str | Path) -> None:
        """Write the state as a safetensors file, whole or not at all. Of several ranks the first writes it, for all."""
        self.once("save", lambda state, generators: write_state(state, Path(path), generators))

    def once(
        self,
        topic: str,
        act: Callable[[Mapping[str, np.ndarray], Generators | None], None],
        snapshot: Callable[[], Snapshot] | None = None,
    ) -> None:
        """Let `act` be done by the first of the ranks, with the state of all and its generators, which are of one moment,
        while the others wait and share in its failure. A step alone acts. A `snapshot` takes both in place of the step's,
        for a caller who takes more at that moment."""
        self._together.once(f"{topic} after step {self.steps}", act, snapshot or self.snapshot)

    def load_state(self, path: str | Path) -> None:
        """Read a file that `save_state` wrote; random generators go on from where they were. Raises FeedError when it
        does not fit the model."""
        self.go_on_from(*read_checkpoint(Path(path)), str(path))

    def go_on_from(self, values: Mapping[str, Any], generators: Generators | None, title: str = "the state") -> None:
        """Replace the state and, where they are given, the positions of random generators. Raises FeedError."""
        if generators is not None and self._executor.draws and generators.seed != self.seed:
            raise FeedError(
                f"{title}: it was saved by a step of seed {generators.seed}, this one has {self.seed}: load the plan "
                f"with seed={generators.seed}, or random numbers would not go on"
            )
        self._replace(values, generators)

    def _replace(self, values: Mapping[str, Any], generators: Generators | None) -> None:
        with self._guard.use(torn=True):
            values = {name: value for name, value in values.items() if not self._together.is_elsewhere(name)}
            wrong = sorted(set(self.state_names) ^ set(values))
            if wrong:
                raise FeedError(f"state {wrong[0]!r} is {'missing' if wrong[0] in self.state_names else 'unknown'}")
            found = {n: checked(self.device, self._by_name[n], v) for n, v in values.items()}
            torn = bool(self._guard.torn)
            drawn = generators.drawn if generators else self._executor.drawn
            with self._guard.changing():
                if torn:
                    self.device.recover()
                if self._executor.draws and (torn or drawn != self._executor.drawn):
                    self._executor.wind(drawn, torn)
                self._put_constants()  # a step that failed, and rewinding, write where they please
                for name, value in found.items():
                    self._values.put(self._by_name[name], value)
                self._unset = ()
                self._together.changed = True

    def close(self) -> None:
        """Free the slab, the host tier and all sessions."""
        with self._guard.closing() as last:
            if last:
                self._together.leave()
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
    host_tier: str | None = None,
    measure: bool = False,
    replay: bool | None = None,
    seed: int = 0,
) -> TrainingStep:
    """Verify a plan against its model and make it ready to run on the plan's kind of device.

    `host_tier` is `ram`, `file` or `file:PATH`, None what the plan was made for; `measure` records the scratch that is
    really used; `replay` says whether a CUDA step is replayed as one CUDA graph or launched; None takes what is faster.
    `seed` is for random operators that have none of their own. Raises PlanError or ModelError for unreadable files,
    VerificationError when the plan does not compute the model, DeviceError when the device refuses. A plan for several
    ranks is loaded by all of them, each a process that torchrun started; RankError says which of them is wrong.
    """
    name = str(plan) if isinstance(plan, (str, Path)) else "the plan"
    loaded = plan if isinstance(plan, Plan) else Plan.load(plan)
    group = group_for(loaded, name)
    if group is None:
        return _load(loaded, model, name, group, host_tier, measure, replay, seed)
    with group.failing():
        return _load(loaded, model, name, group, host_tier, measure, replay, seed)


@paused()
def _load(
    loaded: Plan,
    model: str | Path | onnx.ModelProto | ImportedModel,
    name: str,
    group: RankGroup | None,
    host_tier: str | None,
    measure: bool,
    replay: bool | None,
    seed: int,
) -> TrainingStep:
    imported = model if isinstance(model, ImportedModel) else import_for(model, loaded.model.hash)
    if group is not None:
        greet(group, loaded, imported.graph)
    if loaded.model.hash != imported.graph.content_hash:
        raise PlanError(
            f"{name} was compiled for {loaded.model.file} ({loaded.model.hash[:12]}), not for {imported.file.title} "
            f"({imported.graph.content_hash[:12]}): give that model, or compile this one"
        )
    require_valid(imported.graph, loaded, name)
    if not loaded.costs.estimated:
        require_kernels(imported, loaded.costs.kind, loaded.costs.versions, name)
    tell_of_other_runtime(loaded.costs.versions, name)
    imported = replace(imported, engines=loaded.engine_table)
    local = None if group is None else group.local
    device = open_device(loaded.costs.kind, loaded.memory, host_tier, measure, local)
    try:
        if loaded.engines and isinstance(device, PinsEngines):
            device.require_engines(loaded.costs.versions)
        step = TrainingStep(loaded, imported, device, replay, seed, group)
    except BaseException:
        device.close()
        raise
    release_unused()
    return step
