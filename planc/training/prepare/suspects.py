"""Initializers that an exporter has changed, so that training them is not training the model that was exported.

torch.onnx.export optimises by default: it merges initializers of equal values, so that all norms of a fresh network
share one scale and all biases one vector; it stores the transpose of a tied weight beside the weight; and it expands a
class token to one row a sample. The forward pass is the same, the gradients are not.
"""

from collections.abc import Collection, Iterator

import numpy as np
import onnx
from onnx import numpy_helper

from planc.graph.wellformed import is_undrawn
from planc.training.emit.builder import Array

_NAMED = 3
_REMEDY = "export with torch.onnx.export(..., optimize=False), or trace the step with planc.torch"


def suspicions(model: onnx.ModelProto, trained: Collection[str]) -> list[str]:
    """A sentence for each way in which the trained initializers look changed by an exporter, naming some."""
    drawn = (t for t in model.graph.initializer if t.name in trained and not is_undrawn(t))
    arrays = {t.name: numpy_helper.to_array(t) for t in drawn}
    kinds = (
        ("initializers of equal values seem to have been merged, and train as one", _merged(model, arrays)),
        ("weights that were tied are there twice, and train apart", _untied(arrays)),
        ("one row is repeated for every sample of the batch, and each trains apart", _repeated(arrays)),
    )
    found = []
    for text, names in kinds:
        listed = list(names)
        if listed:
            more = f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
            found.append(f"{text}: {', '.join(listed[:_NAMED])}{more}; {_REMEDY}")
    return found


def _merged(model: onnx.ModelProto, arrays: dict[str, Array]) -> Iterator[str]:
    """Vectors of one number that several nodes read: scales and biases as they are drawn."""
    readers: dict[str, int] = {}
    for node in model.graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    for name, array in arrays.items():
        if readers.get(name, 0) > 1 and array.size > 1 and array.ndim == 1 and (array == array.flat[0]).all():
            yield f"{name!r} ({readers[name]} readers)"


def _untied(arrays: dict[str, Array]) -> Iterator[str]:
    """Pairs of equal matrices, one perhaps transposed."""
    seen: dict[tuple[tuple[int, ...], float], list[str]] = {}
    for name, array in arrays.items():
        if array.ndim != 2 or min(array.shape) < 2 or (array == array.flat[0]).all():
            continue
        key = (tuple(sorted(array.shape)), float(np.abs(array.astype(np.float64)).max()))
        for other in seen.setdefault(key, []):
            if any(b.shape == array.shape and np.array_equal(b, array) for b in (arrays[other], arrays[other].T)):
                yield f"{other!r} and {name!r}"
        seen[key].append(name)


def _repeated(arrays: dict[str, Array]) -> Iterator[str]:
    """Tensors of rank three or more whose parts along the first axis are all the same."""
    for name, array in arrays.items():
        varied = array.ndim > 2 and array.shape[0] > 1 and not (array == array.flat[0]).all()
        if varied and (array == array[:1]).all():
            yield repr(name)
