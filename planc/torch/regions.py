"""Regions under torch.utils.checkpoint: traced as if they were not, since what to recompute is the plan's business."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.utils.checkpoint


@contextmanager
def plain_checkpoints(module: torch.nn.Module) -> Iterator[None]:
    """Within, such regions run once.

    Warns of buffers of `module` that a region writes: torch writes them twice, as it runs the region again.
    """

    def region(*_args: Any, **_kwargs: Any) -> Iterator[None]:
        with _noticed_writes(module):
            yield

    class Plain:
        @staticmethod
        def apply(function: Callable[..., Any], _preserve: bool, *args: Any) -> Any:
            with _noticed_writes(module):
                return function(*args)

    checkpoint = torch.utils.checkpoint
    # PyTorch 2.14 calls one of two such generators, the other is there for callers from elsewhere.
    found = [name for name in vars(checkpoint) if name.startswith("_checkpoint_without_reentrant_generator")]
    replaced: dict[str, Any] = dict.fromkeys(found, region)
    with patch.multiple(checkpoint, **replaced), patch.object(checkpoint, "CheckpointFunction", Plain):
        yield


@contextmanager
def _noticed_writes(module: torch.nn.Module) -> Iterator[None]:
    before = _writes(module)
    yield
    written = [name.removeprefix("model.") for name, count in _writes(module).items() if count != before[name]]
    if written:
        warnings.warn(
            f"buffer {written[0]!r} is written in a checkpointed region: torch writes it again as it runs the region again "
            "for its gradient, the planned step once, as without the checkpoint",
            stacklevel=2,
        )


def _writes(module: torch.nn.Module) -> dict[str, int]:
    """How often each buffer was written so far."""
    return {
        name: torch._functionalize_mutation_counter(b.elem) for name, b in module.named_buffers() if hasattr(b, "elem")
    }
