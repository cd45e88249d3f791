"""Tensors of a traced graph on their way to ONNX; some are kept in a form that is often never materialised.

PyTorch's transposes, expansions and constants cost nothing there, so traces are full of them. Here they stay
descriptions until an operator needs the elements in order: an element-wise operator broadcasts by itself.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from onnx import TensorProto, helper

from planc.errors import ModelError
from planc.ort_training.lazy import Permuted
from planc.training.emit.builder import Array, Shape, Var
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
class Expanded:
    """`value` broadcast to `shape`."""

    value: Var
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
    shape: Shape | None = None
    """That of torch's tensor, where it is another than that of the operator's output."""


@dataclass(frozen=True)
class Picked:
    """The gradient of picking one class per position: `share` [N, 1, ...] at `index` of `log_probabilities`, else 0."""

    log_probabilities: Var
    index: Var
    share: Var

    @property
    def shape(self) -> Shape:
        return self.log_probabilities.shape


@dataclass(frozen=True, eq=False)
class Deferred:
    """A tensor that is made where it is first read: the next value of a statistic, which only an update reads."""

    shape: Shape
    make: Callable[[], Var]


Tensor = Var | Permuted | Expanded | Constant | Recorded | Picked | Deferred


def to_numpy(tensor: torch.Tensor) -> Array:
    """The elements in host memory; bfloat16 as ml_dtypes has it."""
    plain = tensor.detach().cpu().contiguous()
    half = plain.dtype == torch.bfloat16
    array: Array = plain.view(torch.uint16).numpy() if half else plain.numpy()
    return array.view(helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16)) if half else array


def from_numpy(array: Array) -> torch.Tensor:
    """A tensor of its own with the elements of `array`."""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(np.array(array).view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(np.array(array))
