"""A batch as the tensors and names that a graph's inputs have."""

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree

from planc.errors import FeedError, UsageError
from planc.training.prepare.losses import LABELS, TARGET

Signature = tuple[int, tuple[tuple[str, tuple[int, ...], torch.dtype], ...], tuple[tuple[str, str], ...]]
"""The number of micro-batches; place, shape and type of every tensor of one; place and value of every constant."""

CONSTANTS = (bool, int, str, type(None))
"""What may decide how a module runs: part of the graph, so that other values need a plan of their own."""


@dataclass(frozen=True)
class Batch:
    """What a module and its loss are called with: `loss(model(*positional, **named), *targets)`.

    A float is a scalar tensor, because it may change from step to step; whole numbers, strings, booleans and None are
    constants.
    """

    positional: tuple[Any, ...]
    named: Mapping[str, Any]
    targets: tuple[Any, ...]

    def __post_init__(self) -> None:
        for name in ("positional", "named", "targets"):
            object.__setattr__(self, name, pytree.tree_map(_scalar, getattr(self, name)))

    @property
    def tensors(self) -> list[torch.Tensor]:
        """All tensors, in the order of the graph's inputs. Raises FeedError for anything else."""
        return list(self.placed.values())

    @property
    def placed(self) -> dict[str, torch.Tensor]:
        """All tensors by their place, such as `inputs['mask']` or `targets[0]`, in the order of the graph's inputs.

        Raises FeedError for anything but constants and dense tensors without a gradient of their own.
        """
        return {p: _usable(p, leaf) for p, leaf in self._leaves() if not isinstance(leaf, CONSTANTS)}

    @property
    def constants(self) -> dict[str, str]:
        """All constants by their place, as Python writes them."""
        return {place: repr(leaf) for place, leaf in self._leaves() if isinstance(leaf, CONSTANTS)}

    def _leaves(self) -> Iterator[tuple[str, Any]]:
        for head, value in (("inputs", self.positional), ("inputs", dict(self.named)), ("targets", self.targets)):
            for path, leaf in pytree.tree_leaves_with_path(value):
                yield head + pytree.keystr(path), leaf

    def replaced(self, tensors: Iterable[torch.Tensor]) -> "Batch":
        """The same structure around other tensors."""
        return Batch(*refilled((self.positional, dict(self.named), self.targets), tensors))

    def names(self, model: torch.nn.Module, taken: Iterable[str] = ()) -> list[str]:
        """A name per tensor, in the order of the traced inputs; one that is taken gets a prefix."""
        parameters = list(inspect.signature(model.forward).parameters)
        heads = [parameters[i] if i < len(parameters) else f"input{i}" for i in range(len(self.positional))]
        labelled: list[tuple[str, Any]] = [*zip(heads, self.positional, strict=True), *self.named.items()]
        labelled += [(_target_name(t, i, self.targets), t) for i, t in enumerate(self.targets)]
        names: list[str] = []
        for head, value in labelled:
            for key, leaf in pytree.tree_flatten_with_path(value)[0]:
                if isinstance(leaf, CONSTANTS):
                    continue
                names.append(head + "".join(f".{_key(part)}" for part in key))
        used = set(taken)
        return [f"batch.{name}" if name in used else name for name in names]


def refilled(tree: Any, tensors: Iterable[torch.Tensor]) -> Any:
    """A structure with its tensors replaced by others, in order; constants stay."""
    leaves, spec = pytree.tree_flatten(tree)
    others = iter(tensors)
    return pytree.tree_unflatten([v if isinstance(v, CONSTANTS) else next(others) for v in leaves], spec)


def _scalar(leaf: Any) -> Any:
    return torch.tensor(leaf, dtype=torch.float32) if isinstance(leaf, float) else leaf


def batch_of(example: Any) -> Batch:
    """The batch `(inputs, targets)`. Raises UsageError for another form."""
    if not isinstance(example, tuple) or len(example) != 2:
        raise UsageError("example_batch must be (inputs, targets)")
    inputs, targets = example
    targets = () if targets is None else tuple(targets) if isinstance(targets, (tuple, list)) else (targets,)
    if isinstance(inputs, Mapping):
        return Batch((), dict(inputs), targets)
    return Batch(tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,), {}, targets)


def _usable(place: str, leaf: Any) -> torch.Tensor:
    if not isinstance(leaf, torch.Tensor):
        raise FeedError(
            f"{place} is a {type(leaf).__name__}; every value of a batch must be a tensor, a number, a string or None: "
            "convert it, or let a module of your own pass what never changes"
        )
    if leaf.layout != torch.strided or leaf.device.type == "meta":
        kind = "on the device meta" if leaf.device.type == "meta" else f"of layout {leaf.layout}"
        raise FeedError(f"{place} is a tensor {kind}; a step takes dense tensors with values")
    if leaf.requires_grad:
        raise FeedError(f"{place} requires a gradient, which the step does not give it: pass tensor.detach()")
    return leaf


def _target_name(target: Any, position: int, targets: Sequence[Any]) -> str:
    if len(targets) > 1 or not isinstance(target, torch.Tensor):
        return f"{TARGET}.{position}" if len(targets) > 1 else TARGET
    return TARGET if target.dtype.is_floating_point else LABELS


def _key(part: Any) -> str:
    return str(getattr(part, "key", getattr(part, "idx", getattr(part, "name", part))))
