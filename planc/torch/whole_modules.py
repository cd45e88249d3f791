"""Modules that a model writes out itself, as libraries of language models do, run as the one operator that they compute.

RMS-norms (`planc.torch.rms_norms`) and GELUs (`planc.torch.written_gelus`) are found by what they give when they are
tried; while a step is traced each then is one operator, whose gradient keeps its input alone.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch

from planc.torch.rms_norms import rms_norm_of
from planc.torch.written_gelus import gelu_of

Whole = Callable[[torch.Tensor], torch.Tensor | None]
"""What a module computes of its one argument; None for an argument with which it is left as it is."""


@contextmanager
def whole_modules(model: torch.nn.Module) -> Iterator[None]:
    """Within, every such module of the model runs as one operator."""
    known: dict[int, Whole] = {}
    classes: dict[type, None] = {}
    for module in model.modules():
        whole = rms_norm_of(module) or gelu_of(module)
        if whole is not None:
            known[id(module)] = whole
            classes[type(module)] = None
    with ExitStack() as stack:
        for kind in classes:
            stack.enter_context(patch.object(kind, "forward", _forward_of(kind, known)))
        yield


def _forward_of(kind: Any, known: dict[int, Whole]) -> Callable[..., torch.Tensor]:
    original = kind.forward

    def forward(self: Any, *args: Any, **named: Any) -> Any:
        found = known[id(self)](args[0]) if id(self) in known and len(args) == 1 and not named else None
        return original(self, *args, **named) if found is None else found

    return forward
