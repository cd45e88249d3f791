"""One model to train: how to make it, its loss and a batch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Made = tuple[Any, Callable[..., Any], tuple[Any, Any]]
"""Module, loss and (inputs, targets), as `planc.torch.export_training_step` takes them."""


@dataclass(frozen=True)
class Case:
    """`make` is called with torch seeded."""

    group: str
    name: str
    make: Callable[[], Made]
