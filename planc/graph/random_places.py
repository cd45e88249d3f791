"""Where the random numbers of a micro-batch lie: each draws from a place of its own.

An operator with a seed draws, in micro-batch k of all ranks' in order, from the seed that lies k strides further.
"""

import onnx

from planc.graph.operators import RANDOM

_STRIDE = 0x9E3779B1
"""An odd number: the seeds of 2^31 micro-batches differ. Not small, since runtimes count seeds up by one with every run."""

SEEDS, FLOAT_SEEDS = 1 << 31, 1 << 24
"""How many seeds there are for Dropout, whose generator takes 31 bits, and for the others, which take a float."""


def move_seed(node: onnx.NodeProto, places: int) -> None:
    """Move the seed of a random operator that has one by so many micro-batches, in place."""
    if node.op_type not in ("Dropout", *RANDOM) or node.domain not in ("", "ai.onnx") or not places:
        return
    for attribute in node.attribute:
        if attribute.name == "seed" and node.op_type == "Dropout":
            attribute.i = (attribute.i + places * _STRIDE) % SEEDS
        elif attribute.name == "seed":
            attribute.f = float((int(attribute.f) + places * _STRIDE) % FLOAT_SEEDS)
