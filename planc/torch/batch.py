"""A batch as the tensors and names that a graph's inputs have."""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree

from planc.errors import FeedError, UsageError
from planc.training.prepare.losses import LABELS, TARGET

Signature = tuple[tuple[str, tuple[int, ...], torch.dtype], ...]
"""Name, shape and type of every tensor of a batch."""


@dataclass(frozen=True)
class Batch:
    """What a module and its loss are called with: `loss(model(*positional, **named), *targets)`."""

    positional: tuple[Any, ...]
    named: Mapping[str, Any]
    targets: tuple[Any, ...]

    @property
    def tensors(self) -> list[torch.Tensor]:
        """All tensors, in the order of the graph's inputs. Raises FeedError for anything else."""
        leaves: list[Any] = pytree.tree_leaves((self.positional, dict(self.named), self.targets))
        for leaf in leaves:
            if not isinstance(leaf, torch.Tensor):
                raise FeedError(f"a batch holds {leaf!r}; every value must be a tensor")
        return leaves

    def names(self, model: torch.nn.Module, taken: Iterable[str] = ()) -> list[str]:
        """A name per tensor, in the order of the traced inputs; one that is taken gets a prefix."""
        parameters = list(inspect.signature(model.forward).parameters)
        heads = [parameters[i] if i < len(parameters) else f"input{i}" for i in range(len(self.positional))]
        labelled: list[tuple[str, Any]] = [*zip(heads, self.positional, strict=True), *self.named.items()]
        labelled += [(_target_name(t, i, self.targets), t) for i, t in enumerate(self.targets)]
        names: list[str] = []
        for head, value in labelled:
            for key, _ in pytree.tree_flatten_with_path(value)[0]:
                names.append(head + "".join(f".{_key(part)}" for part in key))
        used = set(taken)
        return [f"batch.{name}" if name in used else name for name in names]


def batch_of(example: Any) -> Batch:
    """The batch `(inputs, targets)`. Raises UsageError for another form."""
    if not isinstance(example, tuple) or len(example) != 2:
        raise UsageError("example_batch must be (inputs, targets)")
    inputs, targets = example
    targets = () if targets is None else tuple(targets) if isinstance(targets, (tuple, list)) else (targets,)
    if isinstance(inputs, Mapping):
        return Batch((), dict(inputs), targets)
    return Batch(tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,), {}, targets)


def _target_name(target: Any, position: int, targets: Sequence[Any]) -> str:
    if len(targets) > 1 or not isinstance(target, torch.Tensor):
        return f"{TARGET}.{position}" if len(targets) > 1 else TARGET
    return TARGET if target.dtype.is_floating_point else LABELS


def _key(part: Any) -> str:
    return str(getattr(part, "key", getattr(part, "idx", getattr(part, "name", part))))
