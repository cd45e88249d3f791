"""Lowerings of ATen operators, one file per family; importing the package registers them."""

from planc.torch.lowering import HANDLERS
from planc.torch.rules import (
    convolution,
    create,
    elementwise,
    indexing,
    linear,
    losses,
    normalization,
    pooling,
    random,
    reduce,
    resize,
    shape,
)

__all__ = [
    "HANDLERS",
    "convolution",
    "create",
    "elementwise",
    "indexing",
    "linear",
    "losses",
    "normalization",
    "pooling",
    "random",
    "reduce",
    "resize",
    "shape",
]
