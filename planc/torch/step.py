"""A planned training step of a PyTorch module: tensors in and out, state shared by all shapes of the batch."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar, cast

import numpy as np
import torch
import torch.utils._pytree as pytree

from planc.errors import FeedError, UsageError
from planc.runtime.ranks.together import Snapshot
from planc.runtime.signals import signals_wait
from planc.runtime.step import TrainingStep
from planc.torch.batch import Batch, Signature, batch_of
from planc.torch.checkpoint import Arrays, beside_state, read_training, write_training
from planc.torch.hyperparameters import Hyperparameters
from planc.torch.plans import Maker, Planned
from planc.torch.settings import listed, settings_of
from planc.torch.shared import HOLDERS, Shared
from planc.torch.state import averaged, load_into, tensors_of
from planc.torch.tensors import from_numpy, to_numpy
from planc.torch.watch import Watch
from planc.training.updates import FINITE, GRADIENT_NORM

_Method = TypeVar("_Method", bound=Callable[..., Any])


def _alone(method: _Method) -> _Method:
    """The method by one thread at a time: all that it reads and changes is of one moment."""

    @wraps(method)
    def call(self: "CompiledStep", *args: Any, **kwargs: Any) -> Any:
        with self.turn():
            return method(self, *args, **kwargs)

    return cast("_Method", call)


class CompiledStep:
    """One training step of a module under a memory budget. Made by `planc.torch.compile_step`.

    `step(inputs, targets)` trains on one batch and returns what the loss returns. Learning rates and other
    hyper-parameters are read from the optimizer's parameter groups before each step, so torch's schedulers work; do not
    call `optimizer.step()` or `backward()`. The state lives in the step: `sync` brings it back into module and
    optimizer, and so does leaving a `with` block. Threads wait for each other.
    """

    def __init__(self, maker: Maker, new_shapes: bool = False, shared: Shared | None = None) -> None:
        self.maker, self.new_shapes, self.shared = maker, new_shapes, shared
        self._lock = RLock() if shared is None else shared.lock
        self._process = os.getpid()
        self.closed = False
        self.steps = 0
        """Steps done, in this process and before a checkpoint that was loaded."""
        self.gradient_norm: float | None = None
        """Norm of all gradients of the last step before clipping, where the step clips by norm."""
        self.skipped = False
        """Whether the last step changed nothing, because under a dynamic loss scale its gradients were not all finite."""
        self._hyper = Hyperparameters(listed(maker.optimizer))
        self._plans: dict[Signature, Planned] = {}
        self._evaluations: dict[Signature, Planned] = {}
        self._fresh: set[int] = set()
        self._active: Planned | None = None
        HOLDERS.claim(self)
        if shared is not None and shared.active is not None:
            shared.active.require_unchanged()
            shared.active.sync()
        self._watch = Watch(maker.owner, listed(maker.optimizer))
        self._synced_at = 0

    # --- plans

    @_alone
    def add(self, batch: Batch, micro_batches: int | None = None) -> None:
        """Compile a plan for batches like `batch`, a micro-batch where the step accumulates. Nothing is trained."""
        self._require_open()
        count = micro_batches or self.maker.options.accumulate
        planned = self.maker.training(batch, count, self._budget_bytes)
        self._plans[_signature(batch, batch.placed, count)] = planned
        self._active = self._active or planned

    @_alone
    def add_shape(self, inputs: Any, targets: Any = None, *, micro_batches: int | None = None) -> None:
        """Compile a plan for one more shape of the batch, or for so many micro-batches of it instead of `accumulate`; all
        plans share one state. Nothing is trained."""
        self._watch.check()
        self.add(batch_of((inputs, targets)), micro_batches)

    def require_unchanged(self) -> None:
        """Raise UsageError where module or optimizers were changed outside of the step."""
        self._watch.check()

    def turn(self) -> AbstractContextManager[object]:
        """Around several calls between which no other thread uses the step, or one that shares its state. A forked child,
        where a thread that is gone may hold the lock, has to be refused by what it calls."""
        return self._lock if self._process == os.getpid() else nullcontext()

    def _take_turn(self) -> None:
        """Hold the newest of a state that is shared."""
        if self.shared is not None:
            self.shared.enter(self)

    def _require_open(self) -> None:
        if self.closed:
            raise UsageError("the step is closed: compile it again")

    @property
    def training(self) -> TrainingStep:
        """The planned step that holds the state now."""
        if self._active is None:
            raise UsageError("the step has no plan yet")
        return self._active.step

    # --- steps

    @_alone
    def __call__(self, inputs: Any, targets: Any = None, *, micro_batches: int | None = None) -> Any:
        """Train on one batch; returns the loss, with what else the loss function returns in its form (a tuple or a dict).

        With micro-batches, every tensor of the batch holds all of them one behind the other, but a scalar, which holds for
        each; `micro_batches` is their number where it is not the usual one, as at the end of an epoch. Raises FeedError for
        a batch without a plan, UsageError for hyper-parameters that a compiled step cannot follow, and for a module or
        optimizer that was changed outside.
        """
        self._require_open()
        batch, count = batch_of((inputs, targets)), micro_batches or self.maker.options.accumulate
        self._take_turn()
        self._watch.check()
        placed = batch.placed
        planned = self._planned_for(batch, placed, count)
        planned.outside.check()
        self.training.set_hyperparameters(**self._hyper.current(self.training.hyperparameters))
        feeds = {name: _fed_to_all(placed[place], count) for place, name in planned.inputs.items()}
        names = [*planned.outputs, *(n for n in (GRADIENT_NORM, FINITE) if n in planned.step.output_names)]
        with signals_wait():  # a step that was done is counted, whatever a handler raises
            values = dict(zip(names, planned.step.run(names, feeds), strict=True))
            self.steps += 1
            self._fresh.clear()
        self._hyper.stepped()
        if GRADIENT_NORM in values:
            self.gradient_norm = float(values[GRADIENT_NORM])
        self.skipped = not values.get(FINITE, True)
        return _returned([from_numpy(values[name]) for name in planned.outputs], planned)

    def _planned_for(self, batch: Batch, placed: Mapping[str, torch.Tensor], count: int) -> Planned:
        """The plan for the batch's shape, made to hold the state."""
        one = {place: _micro_batch(place, tensor, count) for place, tensor in placed.items()}
        key = _signature(batch, one, count)
        if key not in self._plans:
            if not self.new_shapes:
                _refuse(key, list(self._plans))
            self.add(batch.replaced([*one.values()]), count)
        planned, active = self._plans[key], self._active
        if active is not None and planned is not active:  # random generators go on too
            planned.step.go_on_from(*active.step.snapshot())
        self._active = planned
        return planned

    @property
    def _budget_bytes(self) -> int | None:
        """What the first plan was given."""
        return None if self._active is None else next(iter(self._plans.values())).step.plan.memory.budget_bytes

    # --- evaluation

    @_alone
    def evaluate(self, *inputs: Any, **named: Any) -> Any:
        """What the module returns in evaluation mode with the trained state; planned, compiled on the first call."""
        self._require_open()
        self._take_turn()
        batch = Batch(inputs, named, ())
        placed = batch.placed
        key = _signature(batch, placed, 1)
        if key not in self._evaluations:
            self._evaluations[key] = self._evaluation(batch)
        planned = self._evaluations[key]
        planned.outside.check()
        if id(planned) not in self._fresh:
            state = self.training.state()
            planned.step.set_state({name: state[name] for name in planned.step.state_names})
            self._fresh.add(id(planned))
        feeds = {name: _fed(placed[place]) for place, name in planned.inputs.items()}
        found = [from_numpy(value) for value in planned.step.run(planned.outputs, feeds)]
        return pytree.tree_unflatten(found, planned.structure)

    def _evaluation(self, batch: Batch) -> Planned:
        return self.maker.evaluation(batch, self.training.state_names, self._budget_bytes or 0)

    # --- state

    @_alone
    def sync(self) -> None:
        """Copy the trained state into the module and its optimizer.

        Of steps that share a state only the last that ran has something to bring: the module is newer than the others.
        """
        if self.shared is not None and self.shared.active is not self:
            return
        done = self.steps - self._synced_at
        load_into(self.maker.owner, self.training.state(), self.maker.optimizer, done)
        self._watch.renew()
        self._synced_at = self.steps

    @_alone
    def refresh(self) -> None:
        """Take the state over from the module and its optimizer, where they were changed outside of the step.

        After steps that were not synced, only what was written since is taken: the rest of the module is older.
        """
        tensors, state = tensors_of(self.maker.owner), self.training.state()
        named = {name: tensor for name, tensor in tensors.items() if name in state}
        parameters, older = named, self._synced_at != self.steps
        if older:
            parameters = {name: tensor for name, tensor in named.items() if name in self._watch.changed()}
        gathered = settings_of(self.maker.optimizer, named).initial
        if older and not self._watch.optimizer_changed():
            gathered = {}
        known = {**{n: to_numpy(t) for n, t in parameters.items()}, **gathered}
        self.training.set_state({n: np.asarray(known.get(n, v)).astype(v.dtype) for n, v in state.items()})
        self._watch.renew()
        self._fresh.clear()

    @_alone
    def averaged(self) -> dict[str, torch.Tensor]:
        """The exponential moving averages of the parameters, for `load_state_dict(..., strict=False)`."""
        self._take_turn()
        return {name: from_numpy(value) for name, value in averaged(self.training.state()).items()}

    def save(self, path: str | Path, **objects: Any) -> None:
        """Write everything that training goes on from into one file, whole or not at all.

        That is parameters, buffers, optimizer state, hyper-parameters, step count, and the random generators of planc,
        torch, NumPy and Python, all of one moment; other threads go on while the file is written. `objects` have a
        `state_dict` (schedulers, `planc.torch.Batches`) or are plain values.
        """
        beside: Arrays = {}

        def taken() -> Snapshot:
            with self.turn():
                self._take_turn()
                step = self.training
                step.set_hyperparameters(**self._hyper.current(step.hyperparameters))
                beside.update(beside_state(self.steps, step.hyperparameters, objects))
                return step.snapshot()

        self.training.once(
            "save", lambda state, generators: write_training(Path(path), state, generators, beside), taken
        )

    @_alone
    def load(self, path: str | Path, **objects: Any) -> dict[str, Any]:
        """Go on from a file that `save` wrote, bit for bit; returns the plain values that were given to it.

        `objects` are those with a `load_state_dict`, under their names at `save`. Raises FeedError where the file does
        not fit the step, and then nothing changes.
        """
        self._take_turn()
        self.steps, plain = read_training(Path(path), self.training, objects)
        self._fresh.clear()
        self._hyper.put_back(self.training.hyperparameters)
        self.sync()
        return plain

    @_alone
    def close(self) -> None:
        """Free all plans, with the state that they hold."""
        if self.closed:
            return
        if self.shared is not None:
            self.shared.leave(self)
        self.closed = True
        for planned in (*self._plans.values(), *self._evaluations.values()):
            planned.step.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None and not self.closed:
                self.sync()
        finally:
            self.close()


def _fed(tensor: torch.Tensor) -> Any:
    """A tensor on the CPU as an array; one on a card as it is, to be shared."""
    return to_numpy(tensor) if tensor.device.type == "cpu" else tensor.detach().contiguous()


def _micro_batch(place: str, tensor: torch.Tensor, count: int) -> torch.Tensor:
    """The first of `count` micro-batches; a scalar is the same for all."""
    if count == 1 or not tensor.dim():
        return tensor
    if tensor.shape[0] % count:
        raise FeedError(
            f"{place}: a tensor of shape {list(tensor.shape)} cannot be cut into {count} micro-batches; "
            "give micro_batches=N for another number of them"
        )
    return tensor[: tensor.shape[0] // count]


def _fed_to_all(tensor: torch.Tensor, count: int) -> Any:
    """What feeds `count` micro-batches: the whole to be cut, or a scalar for each."""
    return _fed(tensor) if tensor.dim() or count == 1 else [_fed(tensor)] * count


def _signature(batch: Batch, placed: Mapping[str, torch.Tensor], count: int) -> Signature:
    """The same for the same tensors in any order, as in a dict that was built another way."""
    tensors = sorted((place, tuple(t.shape), t.dtype) for place, t in placed.items())
    return count, tuple(tensors), tuple(sorted(batch.constants.items()))


def _refuse(given: Signature, known: Sequence[Signature]) -> NoReturn:
    """Raise FeedError for a batch without a plan: tensors are missing or unknown, types, shapes or constants differ."""
    count, tensors, constants = given
    places = _places(given)
    alike = [plan[1] for plan in known if _places(plan) == places]
    if not alike:
        wanted = _places(known[0])
        missing, unknown = sorted(wanted - places), sorted(places - wanted)
        parts = [f"it lacks {', '.join(missing)}"] * bool(missing) + [f"it has {', '.join(unknown)}"] * bool(unknown)
        raise FeedError(f"the batch is not like the step's: {' and '.join(parts)}")
    types = {place: dtype for place, _, dtype in alike[0]}
    for place, _, dtype in tensors:
        if all((place, dtype) not in {(p, d) for p, _, d in plan} for plan in alike):
            raise FeedError(
                f"{place} is of {dtype}, the step was compiled for {types[place]}: convert it, or compile for it"
            )
    shown = ", ".join(f"{place} {list(shape)}" for place, shape, _ in tensors)
    for place, value in constants:
        compiled = {dict(plan[2])[place] for plan in known if _places(plan) == places}
        if value not in compiled:
            raise FeedError(
                f"{place} is {value}, the step was compiled for {' and '.join(sorted(compiled))}: a constant is part of "
                "the graph; call add_shape with such a batch, compile_step(..., new_shapes=True), or pass a float or tensor"
            )
    others = "; ".join(", ".join(str(list(shape)) for _, shape, _ in plan) + _times(n) for n, plan, _ in known)
    raise FeedError(
        f"no plan for a batch of shapes {shown}{_times(count)}: there are plans for {others}; call add_shape with such a "
        "batch, or compile_step(..., new_shapes=True), or leave the last batch of an epoch out (drop_last=True)"
    )


def _places(signature: Signature) -> set[str]:
    """Of all tensors, and of constants, which are told as such."""
    return {place for place, _, _ in signature[1]} | {f"the constant {place}" for place, _ in signature[2]}


def _times(count: int) -> str:
    return "" if count == 1 else f" in {count} micro-batches"


def _returned(values: list[torch.Tensor], planned: Planned) -> Any:
    """What the loss function returned: a tensor, a tuple that begins with the loss, or a dict with the key `loss`."""
    if planned.form is dict:
        return dict(zip(("loss", *planned.others), values, strict=True))
    return values[0] if planned.form is torch.Tensor else tuple(values)
