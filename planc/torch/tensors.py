"""Tensors of a traced graph on their way to ONNX; some are kept in a form that is often never materialised.

PyTorch's transposes, expansions and constants cost nothing there, so traces are full of them. Here they stay
descriptions until an operator needs the elements in order: two transposes cancel, a product takes its operand
transposed, an element-wise operator broadcasts by itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from onnx import TensorProto, helper

from planc.errors import ModelError
from planc.training.builder import Array, Shape, Value
from planc.training.registry import ForwardNode

_DTYPES = {
    torch.float32: TensorProto.FLOAT,
    torch.float64: TensorProto.DOUBLE,
    torch.float16: TensorProto.FLOAT16,
    torch.bfloat16: TensorProto.BFLOAT16,
    torch.int64: TensorProto.INT64,
    torch.int32: TensorProto.INT32,
    torch.int16: TensorProto.INT16,
    torch.int8: TensorProto.INT8,
    torch.uint8: TensorProto.UINT8,
    torch.bool: TensorProto.BOOL,
}


def onnx_dtype(dtype: torch.dtype) -> int:
    """The ONNX element type of a torch type. Raises ModelError for complex and quantised types."""
    if dtype not in _DTYPES:
        raise ModelError(f"tensors of {dtype} have no counterpart in a training graph")
    return int(_DTYPES[dtype])


def torch_dtype(dtype: int) -> torch.dtype:
    """The torch type of an ONNX element type."""
    return next(key for key, value in _DTYPES.items() if value == dtype)


@dataclass(frozen=True)
class Permuted:
    """`source` with its axes permuted: axis i is the source's axis perm[i]."""

    source: Value
    perm: Shape

    @property
    def shape(self) -> Shape:
        return tuple(self.source.shape[axis] for axis in self.perm)


@dataclass(frozen=True)
class Expanded:
    """`value` broadcast to `shape`."""

    value: Value
    shape: Shape


@dataclass(frozen=True)
class Constant:
    """A tensor known at export."""

    tensor: torch.Tensor

    @property
    def shape(self) -> Shape:
        return tuple(self.tensor.shape)


@dataclass(frozen=True)
class Recorded:
    """What a forward operator keeps for its gradient, in the place of the tensors that torch's operator returns."""

    node: ForwardNode


@dataclass(frozen=True)
class Picked:
    """The gradient of picking one class per position: `share` [N, 1, ...] at `index` of `log_probabilities`, else 0."""

    log_probabilities: Value
    index: Value
    share: Value

    @property
    def shape(self) -> Shape:
        return self.log_probabilities.shape


Tensor = Value | Permuted | Expanded | Constant | Recorded | Picked


def composed(a: Value | Permuted, perm: Sequence[int]) -> Value | Permuted:
    """`a` with its axes permuted once more; the source itself where nothing is left to permute."""
    source, first = (a.source, a.perm) if isinstance(a, Permuted) else (a, tuple(range(a.rank)))
    total = tuple(first[axis] for axis in perm)
    return source if total == tuple(range(len(total))) else Permuted(source, total)


@dataclass(frozen=True)
class ViewThrough:
    """How a view of a permuted tensor is a permutation of a view of its source."""

    source_shape: Shape
    perm: Shape


def view_through(a: Permuted, shape: Sequence[int]) -> ViewThrough | None:
    """The view of `a` as `shape` pushed below its permutation, None where it merges axes that are not neighbours.

    Both shapes are cut into the shortest blocks of equal size; a block may be viewed otherwise if its axes lie side by
    side in the source. Axes of length one lie anywhere.
    """
    long = [(a.perm[i], d) for i, d in enumerate(a.shape) if d != 1]
    place = {axis: rank for rank, axis in enumerate(sorted(axis for axis, _ in long))}
    blocks: list[tuple[float, Shape]] = []
    taken = 0
    for axes, dims in _blocks([d for _, d in long], shape):
        places = [place[long[taken + i][0]] for i in range(axes)]
        if any(b != p + 1 for p, b in pairwise(places)):
            return None
        blocks.append((places[0] if places else float("inf"), dims))
        taken += axes
    order = sorted(range(len(blocks)), key=lambda i: blocks[i][0])
    start, starts = 0, [0] * len(blocks)
    for i in order:
        starts[i] = start
        start += len(blocks[i][1])
    perm = [starts[i] + k for i, (_, dims) in enumerate(blocks) for k in range(len(dims))]
    return ViewThrough(tuple(d for i in order for d in blocks[i][1]), tuple(perm))


def _blocks(before: Sequence[int], after: Sequence[int]) -> list[tuple[int, Shape]]:
    """(number of axes of `before`, dimensions of `after`) per block; `before` has no axis of length one."""
    found, i, j = [], 0, 0
    while j < len(after):
        axes, dims, left, right = 0, [after[j]], 1, after[j]
        j += 1
        while left != right or (axes == 0 and right > 1):
            if left < right:
                left *= before[i + axes]
                axes += 1
            else:
                right *= after[j]
                dims.append(after[j])
                j += 1
        found.append((axes, tuple(dims)))
        i += axes
    return found


def to_numpy(tensor: torch.Tensor) -> Array:
    """The elements in host memory; bfloat16 as ml_dtypes has it."""
    plain = tensor.detach().cpu().contiguous()
    half = plain.dtype == torch.bfloat16
    array: Array = plain.view(torch.uint16).numpy() if half else plain.numpy()
    return array.view(helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16)) if half else array
