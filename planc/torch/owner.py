"""Whose tensors are the state of a step: the module's, and those of a loss that has parameters or buffers itself."""

from collections.abc import Callable, Iterator
from typing import Any

import torch

_LOSS = "loss"


class _Owner(torch.nn.Module):  # type: ignore[misc]
    """Both as one module, whose tensors are named as tracing names them; it holds neither, so that nothing is moved."""

    def __init__(self, model: torch.nn.Module, loss: torch.nn.Module) -> None:
        super().__init__()
        self._parts = (model, loss)

    def named_modules(
        self, memo: set[torch.nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, torch.nn.Module]]:
        """The modules of both, under which torch looks for parameters and buffers."""
        memo = set() if memo is None else memo
        model, loss = self._parts
        yield from model.named_modules(memo, prefix, remove_duplicate)
        yield from loss.named_modules(memo, f"{prefix}.{_LOSS}" if prefix else _LOSS, remove_duplicate)


def owner_of(model: torch.nn.Module, loss: Callable[..., Any]) -> torch.nn.Module:
    """The module itself where the loss keeps nothing."""
    if not isinstance(loss, torch.nn.Module) or not {*loss.parameters(), *loss.buffers()} - {*model.parameters()}:
        return model
    return _Owner(model, loss)
