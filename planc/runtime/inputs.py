"""What a step is fed: a batch, whole or in micro-batches, and hyper-parameters that stay until they are changed."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from planc.errors import FeedError
from planc.graph.annotations import RANK
from planc.graph.graph import Role
from planc.importer.import_model import ImportedModel

Array = np.ndarray[Any, Any]


class StepInputs:
    """The inputs of a training step that are not state."""

    def __init__(self, imported: ImportedModel) -> None:
        graph = imported.graph
        self._tensors = {t.name: t for t in (graph.tensors[i] for i in graph.inputs)}
        self._inputs = {name: inputs for name, inputs in imported.hyperparameters.items() if name != RANK}
        self._rank = imported.hyperparameters.get(RANK, ())
        initial = imported.file.initial_values
        self._values = {
            name: np.array(initial[name]) for names in imported.hyperparameters.values() for name in names if name
        }
        batch = [n for n, t in self._tensors.items() if graph.storages[t.storage].role is Role.BATCH]
        self._parts = {name: imported.micro_batches.get(name, (name,)) for name in batch if name not in self._values}
        later = {part for parts in self._parts.values() for part in parts[1:]}
        self.names = tuple(name for name in self._parts if name not in later)
        """Batch inputs that every step needs."""

    def be(self, rank: int) -> None:
        """Let the step be that of one of several ranks; no hyper-parameter, since no two ranks may have the same."""
        for name in self._rank:
            self._values[name] = np.full_like(self._values[name], rank)

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
        found: dict[str, Array] = {}
        for name, value in values.items():
            if name not in self._inputs:
                known = ", ".join(self._inputs) or "none"
                raise FeedError(f"the step has no hyper-parameter {name!r}: it has {known}")
            inputs = self._inputs[name]
            several = isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim > 0)
            listed: list[Any] = list(value) if several else [value] * len(inputs)  # type: ignore[call-overload]
            if len(listed) != len(inputs):
                raise FeedError(f"{name!r} was given {len(listed)} values for {len(inputs)} parameter groups")
            given = {i: v for i, v in zip(inputs, listed, strict=True) if i and v is not None}
            found |= {i: _number(name, v, self._values[i]) for i, v in given.items()}
        self._values |= found

    @contextmanager
    def trying(self, values: Mapping[str, object]) -> Iterator[None]:
        """Around a step with these hyper-parameters, which stay unless it fails before it has begun (FeedError)."""
        before = dict(self._values)
        try:
            self.set(values)
            yield
        except FeedError:
            self._values = before
            raise

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
        given = [name for name in feeds if name in self._values]
        self._values |= {name: _number(name, feeds[name], self._values[name]) for name in given}
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


def _number(name: str, value: Any, like: Array) -> Array:
    """A finite number as an array of the shape and type of `like`. Raises FeedError for anything else, and for a number
    that the type cannot hold."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise FeedError(f"{name!r} is {str(value)[:40]!r}, expected a number") from error
    if not math.isfinite(number):
        raise FeedError(f"{name!r} is {number}, expected a finite number")
    with np.errstate(over="ignore", invalid="ignore"):
        held = np.full_like(like, number)
    if not (held == number if held.dtype.kind in "biu" else np.isfinite(held)).all():
        raise FeedError(f"{name!r} is {number}, which the model's {held.dtype.name} cannot hold")
    return held
