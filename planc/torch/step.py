"""A planned training step of a PyTorch module: tensors in and out, state shared by all shapes of the batch."""

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
import torch.utils._pytree as pytree

from planc.errors import FeedError, UsageError
from planc.runtime.step import TrainingStep
from planc.torch.batch import Batch, Signature, batch_of
from planc.torch.checkpoint import read_training, write_training
from planc.torch.hyperparameters import Hyperparameters
from planc.torch.plans import Maker, Planned
from planc.torch.settings import listed, settings_of
from planc.torch.state import averaged, load_into, tensors_of
from planc.torch.tensors import from_numpy, to_numpy
from planc.training.updates import GRADIENT_NORM


class CompiledStep:
    """One training step of a module under a memory budget. Made by `planc.torch.compile_step`.

    `step(inputs, targets)` trains on one batch and returns what the loss returns. Learning rates and other
    hyper-parameters are read from the optimizer's parameter groups before each step, so torch's schedulers work; do not
    call `optimizer.step()` or `backward()`. The state lives in the step: `sync` brings it back into module and
    optimizer, and so does leaving a `with` block.
    """

    def __init__(self, maker: Maker, new_shapes: bool = False) -> None:
        self.maker, self.new_shapes = maker, new_shapes
        self.steps = 0
        """Steps done, in this process and before a checkpoint that was loaded."""
        self.gradient_norm: float | None = None
        """Norm of all gradients of the last step before clipping, where the step clips by norm."""
        self._hyper = Hyperparameters(listed(maker.optimizer))
        self._plans: dict[Signature, Planned] = {}
        self._evaluations: dict[Signature, Planned] = {}
        self._fresh: set[int] = set()
        self._active: Planned | None = None

    # --- plans

    def add(self, batch: Batch) -> None:
        """Compile a plan for batches like `batch`, a micro-batch where the step accumulates. Nothing is trained."""
        planned = self.maker.training(batch)
        if self._active is not None:
            planned.step.set_state(self._active.step.state())
        self._plans[self._signature(planned.inputs, batch.tensors)] = planned
        self._active = self._active or planned

    def add_shape(self, inputs: Any, targets: Any = None) -> None:
        """Compile a plan for one more shape of the batch; all plans share one state. Nothing is trained."""
        self.add(batch_of((inputs, targets)))

    @property
    def training(self) -> TrainingStep:
        """The planned step that holds the state now."""
        if self._active is None:
            raise UsageError("the step has no plan yet")
        return self._active.step

    # --- steps

    def __call__(self, inputs: Any, targets: Any = None) -> Any:
        """Train on one batch; returns the loss, with what else the loss function returns in its form (a tuple or a dict).

        With micro-batches, every tensor of the batch holds all of them one behind the other. Raises FeedError for a
        batch without a plan, UsageError for hyper-parameters that a compiled step cannot follow.
        """
        batch = batch_of((inputs, targets))
        planned = self._planned_for(batch)
        self.training.set_hyperparameters(**self._hyper.current(self.training.hyperparameters))
        feeds = {n: _fed(t) for n, t in zip(planned.inputs, batch.tensors, strict=True)}
        names = [*planned.outputs, *([GRADIENT_NORM] if GRADIENT_NORM in planned.step.output_names else [])]
        values = dict(zip(names, planned.step.run(names, feeds), strict=True))
        self.steps += 1
        self._fresh.clear()
        self._hyper.stepped()
        if GRADIENT_NORM in values:
            self.gradient_norm = float(values[GRADIENT_NORM])
        return _returned([from_numpy(values[name]) for name in planned.outputs], planned.others)

    def _planned_for(self, batch: Batch) -> Planned:
        """The plan for the batch's shape, made to hold the state."""
        tensors = self._micro_batch(batch.tensors)
        names = next(iter(self._plans.values())).inputs
        key = self._signature(names, tensors) if len(names) == len(tensors) else ()
        if key not in self._plans:
            self._plan_anew(batch, tensors)
        planned, active = self._plans[key], self._active
        if active is not None and planned is not active:
            planned.step.set_state(active.step.state())
        self._active = planned
        return planned

    def _plan_anew(self, batch: Batch, tensors: list[torch.Tensor]) -> None:
        if not self.new_shapes:
            known = "; ".join(", ".join(str(list(shape)) for _, shape, _ in key) for key in self._plans)
            given = ", ".join(str(list(t.shape)) for t in tensors)
            raise FeedError(
                f"no plan for a batch of shapes {given}: there are plans for {known}; call add_shape with such a batch, "
                "or compile_step(..., new_shapes=True)"
            )
        leaves, spec = pytree.tree_flatten((batch.positional, dict(batch.named), batch.targets))
        del leaves
        self.add(Batch(*pytree.tree_unflatten(tensors, spec)))

    def _micro_batch(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        """The first micro-batch of every tensor."""
        count = self.maker.options.accumulate
        if count == 1:
            return tensors
        for tensor in tensors:
            if not tensor.dim() or tensor.shape[0] % count:
                raise FeedError(f"a tensor of shape {list(tensor.shape)} cannot be cut into {count} micro-batches")
        return [tensor[: tensor.shape[0] // count] for tensor in tensors]

    @staticmethod
    def _signature(names: tuple[str, ...], tensors: list[torch.Tensor]) -> Signature:
        return tuple((n, tuple(t.shape), t.dtype) for n, t in zip(names, tensors, strict=True))

    # --- evaluation

    def evaluate(self, *inputs: Any, **named: Any) -> Any:
        """What the module returns in evaluation mode with the trained state; planned, compiled on the first call."""
        batch = Batch(inputs, named, ())
        tensors = batch.tensors
        key = self._signature(tuple(map(str, range(len(tensors)))), tensors)
        if key not in self._evaluations:
            self._evaluations[key] = self.maker.evaluation(batch, self.training.state_names)
        planned = self._evaluations[key]
        if id(planned) not in self._fresh:
            state = self.training.state()
            planned.step.set_state({name: state[name] for name in planned.step.state_names})
            self._fresh.add(id(planned))
        feeds = {n: _fed(t) for n, t in zip(planned.inputs, tensors, strict=True)}
        found = [from_numpy(value) for value in planned.step.run(planned.outputs, feeds)]
        return pytree.tree_unflatten(found, planned.structure)

    # --- state

    def sync(self) -> None:
        """Copy the trained state into the module and its optimizer."""
        load_into(self.maker.model, self.training.state(), self.maker.optimizer)

    def refresh(self) -> None:
        """Take the state over from the module and its optimizer, where they were changed outside of the step."""
        tensors, state = tensors_of(self.maker.model), self.training.state()
        parameters = {name: tensor for name, tensor in tensors.items() if name in state}
        gathered = settings_of(self.maker.optimizer, parameters).initial
        known = {**{n: to_numpy(t) for n, t in parameters.items()}, **gathered}
        self.training.set_state({n: np.asarray(known.get(n, v)).astype(v.dtype) for n, v in state.items()})
        self._fresh.clear()

    def averaged(self) -> dict[str, torch.Tensor]:
        """The exponential moving averages of the parameters, for `load_state_dict(..., strict=False)`."""
        return {name: from_numpy(value) for name, value in averaged(self.training.state()).items()}

    def save(self, path: str | Path, **objects: Any) -> None:
        """Write everything that training goes on from into one file, whole or not at all.

        That is parameters, buffers, optimizer state, hyper-parameters, step count, and the random generators of planc,
        torch, NumPy and Python. `objects` have a `state_dict` (schedulers, `planc.torch.Batches`) or are plain values.
        """
        self.training.set_hyperparameters(**self._hyper.current(self.training.hyperparameters))
        write_training(Path(path), self.training, self.steps, objects)

    def load(self, path: str | Path, **objects: Any) -> dict[str, Any]:
        """Go on from a file that `save` wrote, bit for bit; returns the plain values that were given to it.

        `objects` are those with a `load_state_dict`, under their names at `save`. Raises FeedError where the file does
        not fit the step, and then nothing changes.
        """
        self.steps, plain = read_training(Path(path), self.training, objects)
        self._fresh.clear()
        self._hyper.put_back(self.training.hyperparameters)
        self.sync()
        return plain

    def close(self) -> None:
        """Free all plans, with the state that they hold."""
        for planned in (*self._plans.values(), *self._evaluations.values()):
            planned.step.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.sync()
        self.close()


def _fed(tensor: torch.Tensor) -> Any:
    """A tensor on the CPU as an array; one on a card as it is, to be shared."""
    return to_numpy(tensor) if tensor.device.type == "cpu" else tensor.detach().contiguous()


def _returned(values: list[torch.Tensor], others: tuple[str, ...]) -> Any:
    """What the loss function returned: a tensor, a tuple that begins with the loss, or a dict with the key `loss`."""
    if not others:
        return values[0]
    if all(name.isdigit() for name in others):
        return tuple(values)
    return dict(zip(("loss", *others), values, strict=True))
