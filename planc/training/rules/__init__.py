"""Gradient rules and lowerings, one file per operator family; importing this package registers them all."""

from planc.training.registry import GRADIENTS, LOWERINGS
from planc.training.rules import (
    convolution,
    elementwise,
    indexing,
    linear,
    losses,
    normalization,
    pooling,
    reduce,
    shape,
)  # fmt: skip

__all__ = [
    "GRADIENTS", "LOWERINGS",
    "convolution", "elementwise", "indexing", "linear", "losses", "normalization", "pooling", "reduce", "shape",
]  # fmt: skip
