"""Pools and borders."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import helper

from planc.errors import ModelError
from planc.torch.lowering import TorchLowering, aten, lower
from planc.torch.tensors import Recorded
from planc.training.apply import emit_forward, forward_node, gradients_of
from planc.training.emit.builder import Array, Var
from planc.training.registry import ForwardNode


def _pads(
    x: Var, y: tuple[int, ...], kernel: list[int], stride: list[int], padding: list[int], dilation: list[int]
) -> list[int]:
    """(before..., after...): what a ceiling of the output size adds becomes padding behind."""
    after = []
    for i, k in enumerate(kernel):
        reach = (y[2 + i] - 1) * stride[i] + dilation[i] * (k - 1) + 1
        after.append(max(padding[i], reach - x.shape[2 + i] - padding[i]))
    return [*padding, *after]


def _full(values: list[int] | int | None, dims: int, default: list[int]) -> list[int]:
    if not values and values != 0:
        return default
    listed = [values] if isinstance(values, int) else list(values)
    return listed * (dims // len(listed))


@lower(aten.max_pool2d_with_indices.default, aten.max_pool3d_with_indices.default)
def max_pool(
    c: TorchLowering, self: Var, kernel_size: list[int], stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False,
) -> tuple[Var, Recorded]:  # fmt: skip
    """Maximum of each window; what the gradient needs instead of torch's indices."""
    del ceil_mode
    dims = self.rank - 2
    kernel = _full(kernel_size, dims, [])
    strides, dilations = _full(stride, dims, kernel), _full(dilation, dims, [1] * dims)
    pads = _pads(self, c.specs[0][0], kernel, strides, _full(padding, dims, [0] * dims), dilations)
    y = Var(c.fresh("MaxPool"), *c.specs[0])
    node = forward_node(
        c.b, c.table, "MaxPool", [self], [y], kernel_shape=kernel, strides=strides, pads=pads, dilations=dilations
    )
    return y, Recorded(emit_forward(c.b, node)[0])


@lower(aten.max_pool2d_with_indices_backward.default, aten.max_pool3d_with_indices_backward.default, raw=("indices",))
def max_pool_backward(c: TorchLowering, grad_output: Var, self: Var, indices: Any, **_: Any) -> Var:
    """To the maxima that the forward pool found."""
    del self
    if not isinstance(indices, Recorded):
        raise ModelError("a max pool's gradient without its forward operator has no lowering to ONNX")
    return gradients_of(c.b, indices.node, [grad_output], [0])[0]


def _average_node(
    c: TorchLowering, x: Var, y: Var, kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool,
    count_include_pad: bool, divisor_override: int | None,
) -> ForwardNode:  # fmt: skip
    dims = x.rank - 2
    kernel, given = _full(kernel_size, dims, []), _full(padding, dims, [0] * dims)
    strides = _full(stride, dims, kernel)
    pads = _pads(x, y.shape, kernel, strides, given, [1] * dims)
    if divisor_override is not None or (ceil_mode and count_include_pad and pads[dims:] != given and any(given)):
        raise ModelError(f"average pool of layer {c.b.group.layer!r}: this divisor has no counterpart in ONNX")
    include = int(count_include_pad and pads[dims:] == given)
    return forward_node(
        c.b, c.table, "AveragePool", [x], [y], kernel_shape=kernel, strides=strides, pads=pads,
        count_include_pad=include,
    )  # fmt: skip


@lower(aten.avg_pool2d.default, aten.avg_pool3d.default)
def average_pool(
    c: TorchLowering, self: Var, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> Var:  # fmt: skip
    """Mean of each window."""
    y = Var(c.fresh("AveragePool"), *c.specs[0])
    emit_forward(
        c.b,
        _average_node(c, self, y, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override),
    )
    return y


@lower(aten.avg_pool2d_backward.default, aten.avg_pool3d_backward.default)
def average_pool_backward(
    c: TorchLowering, grad_output: Var, self: Var, kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool,
    count_include_pad: bool, divisor_override: int | None,
) -> Var:  # fmt: skip
    """Each window's gradient shared among its inputs."""
    node = _average_node(
        c, self, grad_output, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    )
    return gradients_of(c.b, node, [grad_output], [0])[0]


def _adaptive_weights(size: int, out: int) -> Array:
    """[out, size]: the windows [floor(i size / out), ceil((i + 1) size / out)) of torch's adaptive pools."""
    weights = np.zeros((out, size))
    for i in range(out):
        start, end = i * size // out, -(-(i + 1) * size // out)
        weights[i, start:end] = 1 / (end - start)
    return weights


def _along_axes(c: TorchLowering, a: Var, rows: Array, columns: Array) -> Var:
    """rows · a · columnsᵀ over the last two axes; factors of one row or square identities are left to the caller."""
    dtype = helper.tensor_dtype_to_np_dtype(a.dtype)
    left, right = c.b.constant(rows.astype(dtype)), c.b.constant(np.ascontiguousarray(columns.T.astype(dtype)))
    return c.b.matmul(left, c.b.matmul(a, right))


@lower(aten._adaptive_avg_pool2d.default)
def adaptive_average_pool(c: TorchLowering, self: Var, output_size: list[int]) -> Var:
    """A plain pool where the windows tile the image, else a product per axis."""
    size = self.shape[2:]
    if all(s % o == 0 for s, o in zip(size, output_size, strict=True)):
        kernel = [s // o for s, o in zip(size, output_size, strict=True)]
        return self if math.prod(kernel) == 1 else average_pool(c, self, kernel)
    return _along_axes(c, self, *(_adaptive_weights(s, o) for s, o in zip(size, output_size, strict=True)))


@lower(aten._adaptive_avg_pool2d_backward.default)
def adaptive_average_pool_backward(c: TorchLowering, grad_output: Var, self: Var) -> Var:
    """The transpose of the forward product, or the gradient of the plain pool."""
    size, out = self.shape[2:], grad_output.shape[2:]
    if all(s % o == 0 for s, o in zip(size, out, strict=True)):
        kernel = [s // o for s, o in zip(size, out, strict=True)]
        plain = math.prod(kernel) == 1
        return (
            grad_output if plain
            else average_pool_backward(c, grad_output, self, kernel, kernel, 0, False, True, None)
        )  # fmt: skip
    weights = [_adaptive_weights(s, o).T for s, o in zip(size, out, strict=True)]
    return _along_axes(c, grad_output, weights[0], weights[1])


def _tiled(x: Var, out: Sequence[int]) -> list[int]:
    """The kernel of the plain pool that an adaptive max-pool is. Raises ModelError where windows overlap."""
    if any(size % o for size, o in zip(x.shape[2:], out, strict=True)):
        raise ModelError(f"an adaptive max-pool from {list(x.shape[2:])} to {list(out)} has no lowering to ONNX")
    return [size // o for size, o in zip(x.shape[2:], out, strict=True)]


@lower(aten.adaptive_max_pool2d.default)
def adaptive_max_pool(c: TorchLowering, self: Var, output_size: list[int]) -> tuple[Var, Recorded]:
    """A plain pool where the windows tile the image."""
    return max_pool(c, self, _tiled(self, output_size))


@lower(aten.adaptive_max_pool2d_backward.default, raw=("indices",))
def adaptive_max_pool_backward(c: TorchLowering, grad_output: Var, self: Var, indices: Any) -> Var:
    """To the maxima that the forward pool found."""
    return max_pool_backward(c, grad_output, self, indices)


def _border_rows(size: int, before: int, after: int, mode: str) -> Array:
    """[size + before + after, size]: which row each padded row repeats."""
    rows = np.pad(np.arange(size), (before, after), mode=mode)  # type: ignore[call-overload]
    return np.asarray(np.eye(size)[rows])


def _border(c: TorchLowering, a: Var, padding: list[int], mode: str) -> Var:
    """Pads the last two axes; `padding` lists (before, after) from the last axis on."""
    left, right, top, bottom = padding
    pads = [*[0] * (a.rank - 2), top, left, *[0] * (a.rank - 2), bottom, right]
    return c.b.op("Pad", [a, c.b.ints(pads)], c.specs[0][0], mode=mode)


def _border_backward(c: TorchLowering, dy: Var, x: Var, padding: list[int], mode: str) -> Var:
    """Sums over the copies, as a product per axis."""
    left, right, top, bottom = padding
    rows, columns = _border_rows(x.shape[-2], top, bottom, mode), _border_rows(x.shape[-1], left, right, mode)
    return _along_axes(c, dy, rows.T, columns.T)


@lower(aten.reflection_pad2d.default)
def reflection_pad(c: TorchLowering, self: Var, padding: list[int]) -> Var:
    """The border mirrored."""
    return _border(c, self, padding, "reflect")


@lower(aten.reflection_pad2d_backward.default)
def reflection_pad_backward(c: TorchLowering, grad_output: Var, self: Var, padding: list[int]) -> Var:
    """See reflection_pad."""
    return _border_backward(c, grad_output, self, padding, "reflect")


@lower(aten.replication_pad2d.default)
def replication_pad(c: TorchLowering, self: Var, padding: list[int]) -> Var:
    """The border repeated."""
    return _border(c, self, padding, "edge")


@lower(aten.replication_pad2d_backward.default)
def replication_pad_backward(c: TorchLowering, grad_output: Var, self: Var, padding: list[int]) -> Var:
    """See replication_pad."""
    return _border_backward(c, grad_output, self, padding, "edge")
