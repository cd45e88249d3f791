"""Lowerings of ATen operators, one file per family; importing the package registers them."""

from planc.torch.lowering import HANDLERS
from planc.torch.rules import (
    convolution,
    create,
    elementwise,
    experts,
    functions,
    indexing,
    linear,
    losses,
    normalization,
    pooling,
    positions,
    random,
    reduce,
    resize,
    scans,
    scatter,
    shape,
)

__all__ = [
    "HANDLERS",
    "convolution",
    "create",
    "elementwise",
    "experts",
    "functions",
    "indexing",
    "linear",
    "losses",
    "normalization",
    "pooling",
    "positions",
    "random",
    "reduce",
    "resize",
    "scans",
    "scatter",
    "shape",
]
