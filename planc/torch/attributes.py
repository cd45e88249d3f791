"""What a module keeps or draws in plain Python: left as it was by the trace, and told where the next step differs."""

import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

_OWN = frozenset({"_parameters", "_buffers", "_modules"})


@contextmanager
def unchanged_attributes(module: torch.nn.Module) -> Iterator[None]:
    """Restore, afterwards, every attribute of every submodule that running it sets.

    Warns of a number that the forward pass changed: a graph holds the value that it had at export.
    """
    before = [(name, part, dict(part.__dict__)) for name, part in module.named_modules()]
    try:
        yield
    finally:
        for name, part, attributes in before:
            _warn_of_numbers(name.removeprefix("model").removeprefix("."), part, attributes)
            for key in [k for k in part.__dict__ if k not in attributes]:
                del part.__dict__[key]
            part.__dict__.update({k: v for k, v in attributes.items() if k not in _OWN})


def _warn_of_numbers(name: str, part: torch.nn.Module, before: dict[str, Any]) -> None:
    for key, value in before.items():
        now = part.__dict__.get(key)
        if type(value) in (int, float) and type(now) in (int, float) and now != value:
            warnings.warn(
                f"attribute {key!r} of module {name or type(part).__name__!r} changed from {value} to {now} while the "
                f"step was traced; every exported step computes as that one did: make it a buffer, or feed it as an input",
                stacklevel=2,
            )


@contextmanager
def noticed_randomness() -> Iterator[None]:
    """Warn of numbers that the forward pass draws in Python or NumPy: a graph holds those that came at export."""
    before = _drawn()
    yield
    now = _drawn()
    for name in (name for name, state in before.items() if now[name] != state):
        warnings.warn(
            f"the forward pass draws from {name}; the exported step always computes with what was drawn while it was "
            "traced: draw with torch, or feed it as an input",
            stacklevel=2,
        )


def _drawn() -> dict[str, Any]:
    """How far the generators are that no trace sees."""
    return {"Python's random": random.getstate(), "numpy.random": repr(np.random.get_state())}
