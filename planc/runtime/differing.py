"""Where two runs of a step differ, bit by bit: which outputs and states, and which of them was made first."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from planc.importer.import_model import ImportedModel

Values = Mapping[str, np.ndarray[Any, Any]]


def differing(found: Values, expected: Values) -> dict[str, int]:
    """For each array of `found` that is not `expected`'s in every bit, how many of its elements differ."""
    counts = {name: _count(value, expected[name]) for name, value in found.items()}
    return {name: count for name, count in counts.items() if count}


def _count(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> int:
    a, b = np.ascontiguousarray(found), np.ascontiguousarray(expected)
    if a.tobytes() == b.tobytes():
        return 0
    rows = (a.reshape(-1).view(np.uint8) != b.reshape(-1).view(np.uint8)).reshape(-1, a.dtype.itemsize)
    return int(rows.any(1).sum())


def first_made(imported: ImportedModel, names: Collection[str]) -> str:
    """Of outputs and states, by name, the one that a step makes first, and the layer that makes it.

    What differs first lies closest to the cause: an update stands right behind its gradient, in the order of the backward
    pass. Only the first step that differs tells it; later ones start from other states.
    """
    graph = imported.graph
    made = {tensor: at for at, op in enumerate(graph.ops) for tensor in op.outputs}
    following = {graph.tensors[old].name: new for old, new in graph.state.items()}
    tensors = {name: imported.outputs.get(name, following.get(name, -1)) for name in names}
    first = min(tensors, key=lambda name: made.get(tensors[name], -1))
    at = made.get(tensors[first])
    layer = next((layer.title for layer in graph.layers if at is not None and layer.start <= at < layer.stop), None)
    return f"{first!r}" if layer is None else f"{first!r} (layer {layer!r})"
