"""What a step is fed: a batch, whole or in micro-batches, and hyper-parameters that stay until they are changed."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from planc.errors import FeedError
from planc.graph.graph import Role
from planc.importer.import_model import ImportedModel

Array = np.ndarray[Any, Any]


class StepInputs:
    """The inputs of a training step that are not state."""

    def __init__(self, imported: ImportedModel) -> None:
        graph = imported.graph
        self._tensors = {t.name: t for t in (graph.tensors[i] for i in graph.inputs)}
        self._inputs = imported.hyperparameters
        initial = imported.file.initial_values
        self._values = {name: np.array(initial[name]) for names in self._inputs.values() for name in names if name}
        batch = [n for n, t in self._tensors.items() if graph.storages[t.storage].role is Role.BATCH]
        self._parts = {name: imported.micro_batches.get(name, (name,)) for name in batch if name not in self._values}
        later = {part for parts in self._parts.values() for part in parts[1:]}
        self.names = tuple(name for name in self._parts if name not in later)
        """Batch inputs that every step needs."""

    @property
    def hyperparameters(self) -> dict[str, tuple[float | None, ...]]:
        """The values of the next step by name, one per parameter group; None for a group without it."""
        return {
            name: tuple(float(self._values[given]) if given else None for given in inputs)
            for name, inputs in self._inputs.items()
        }

    def set(self, values: Mapping[str, object]) -> None:
        """Change hyper-parameters: a number for all parameter groups, or one per group.

        Raises FeedError for one that the step does not have, or for a wrong count; nothing is changed then.
        """
        found: dict[str, float] = {}
        for name, value in values.items():
            if name not in self._inputs:
                known = ", ".join(self._inputs) or "none"
                raise FeedError(f"the step has no hyper-parameter {name!r}: it has {known}")
            inputs = self._inputs[name]
            listed = list(value) if isinstance(value, Sequence) else [value] * len(inputs)
            if len(listed) != len(inputs):
                raise FeedError(f"{name!r} was given {len(listed)} values for {len(inputs)} parameter groups")
            found |= {i: _number(name, v) for i, v in zip(inputs, listed, strict=True) if i and v is not None}
        for name, number in found.items():
            self._values[name][...] = number

    def resolved(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """A value for every input: batches as given or cut into micro-batches, hyper-parameters as they stand.

        Raises FeedError for an input that is missing or unknown.
        """
        missing = [name for name in self.names if name not in feeds]
        if missing:
            raise FeedError(f"input {missing[0]!r} is missing: the step needs {', '.join(self.names)}")
        unknown = [name for name in feeds if name not in self._parts and name not in self._values]
        if unknown:
            raise FeedError(f"unknown input {unknown[0]!r}: the step takes {', '.join(self.names)}")
        for name in [name for name in feeds if name in self._values]:
            self._values[name][...] = _number(name, feeds[name])
        found: dict[str, Any] = dict(self._values)
        for name in self.names:
            found.update(zip(self._parts[name], self._pieces(name, feeds[name]), strict=True))
        return found

    def _pieces(self, name: str, value: Any) -> Sequence[Any]:
        """One value per micro-batch: a sequence of them, or the whole cut along its first axis."""
        count, shape = len(self._parts[name]), self._tensors[name].shape
        if count == 1:
            return [value]
        if isinstance(value, (list, tuple)) and len(value) == count:
            return value
        whole = value if hasattr(value, "shape") else np.asarray(value)
        if not shape or tuple(whole.shape) != (count * shape[0], *shape[1:]):
            raise FeedError(
                f"{name!r} has shape {list(whole.shape)}; the step takes {count} micro-batches of {list(shape)}, "
                "as a list or one behind the other"
            )
        return [whole[at * shape[0] : (at + 1) * shape[0]] for at in range(count)]


def _number(name: str, value: Any) -> float:
    """A finite number. Raises FeedError for anything else."""
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise FeedError(f"{name!r} is {value!r}, expected a number") from error
    if not math.isfinite(number):
        raise FeedError(f"{name!r} is {number}, expected a finite number")
    return number
