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


def _along(c: TorchLowering, a: Var, axis: int, matrix: Array) -> Var:
    """`a` with `matrix` [out, size] applied to an axis."""
    if np.array_equal(matrix, np.eye(matrix.shape[1])):
        return a
    weights = np.ascontiguousarray(matrix.astype(helper.tensor_dtype_to_np_dtype(a.dtype)))
    lead, tail = math.prod(a.shape[:axis]), math.prod(a.shape[axis + 1 :])
    shape = (*a.shape[:axis], matrix.shape[0], *a.shape[axis + 1 :])
    if tail == 1:
        return c.b.reshape(c.b.matmul(c.b.reshape(a, (lead, a.shape[axis])), c.b.constant(weights.T.copy())), shape)
    rows = c.b.reshape(a, (lead, a.shape[axis], tail))
    return c.b.reshape(c.b.matmul(c.b.constant(weights), rows), shape)


def _along_last(c: TorchLowering, a: Var, matrices: Sequence[Array]) -> Var:
    """One matrix an axis applied to the last axes, the last axis first."""
    for back, matrix in enumerate(reversed(matrices), 1):
        a = _along(c, a, a.rank - back, matrix)
    return a


@lower(aten._adaptive_avg_pool2d.default, aten._adaptive_avg_pool3d.default)
def adaptive_average_pool(c: TorchLowering, self: Var, output_size: list[int]) -> Var:
    """A plain pool where the windows tile the image, else a product per axis."""
    size = self.shape[self.rank - len(output_size) :]
    if self.rank == len(output_size) + 2 and all(s % o == 0 for s, o in zip(size, output_size, strict=True)):
        kernel = [s // o for s, o in zip(size, output_size, strict=True)]
        return self if math.prod(kernel) == 1 else average_pool(c, self, kernel)
    return _along_last(c, self, [_adaptive_weights(s, o) for s, o in zip(size, output_size, strict=True)])


@lower(aten._adaptive_avg_pool2d_backward.default, aten._adaptive_avg_pool3d_backward.default)
def adaptive_average_pool_backward(c: TorchLowering, grad_output: Var, self: Var) -> Var:
    """The transpose of the forward product, or the gradient of the plain pool."""
    dims = 3 if "3d" in str(c.node.target) else 2
    size, out = self.shape[self.rank - dims :], grad_output.shape[self.rank - dims :]
    if self.rank == dims + 2 and all(s % o == 0 for s, o in zip(size, out, strict=True)):
        kernel = [s // o for s, o in zip(size, out, strict=True)]
        plain = math.prod(kernel) == 1
        return (
            grad_output if plain
            else average_pool_backward(c, grad_output, self, kernel, kernel, 0, False, True, None)
        )  # fmt: skip
    return _along_last(c, grad_output, [_adaptive_weights(s, o).T for s, o in zip(size, out, strict=True)])


def _border_rows(size: int, before: int, after: int, mode: str) -> Array:
    """[size + before + after, size]: which row each padded row repeats."""
    rows = np.pad(np.arange(size), (before, after), mode=mode)  # type: ignore[call-overload]
    return np.asarray(np.eye(size)[rows])


def _pads_of(padding: list[int]) -> list[tuple[int, int]]:
    """(before, after) of each padded axis in order; torch lists them from the last axis on."""
    return [(padding[i], padding[i + 1]) for i in reversed(range(0, len(padding), 2))]


def _border(mode: str, *targets: Any) -> None:
    """Register the padding of the last axes in an ONNX mode."""

    def handler(c: TorchLowering, self: Var, padding: list[int]) -> Var:
        pairs = [(0, 0)] * (self.rank - len(padding) // 2) + _pads_of(padding)
        pads = c.b.ints([before for before, _ in pairs] + [after for _, after in pairs])
        if min(padding) < 0:
            raise ModelError(f"negative padding in mode {mode!r} has no lowering to ONNX; slice first")
        return c.b.op("Pad", [self, pads], c.specs[0][0], mode=mode)

    lower(*targets)(handler)


def _border_backward(mode: str, *targets: Any) -> None:
    """Register its gradient: sums over the copies, as a product per axis."""

    def handler(c: TorchLowering, grad_output: Var, self: Var, padding: list[int]) -> Var:
        sizes = self.shape[self.rank - len(padding) // 2 :]
        pairs = zip(sizes, _pads_of(padding), strict=True)
        return _along_last(c, grad_output, [_border_rows(n, b, a, mode).T for n, (b, a) in pairs])

    lower(*targets)(handler)


_border("reflect", aten.reflection_pad1d.default, aten.reflection_pad2d.default, aten.reflection_pad3d.default)
_border("edge", aten.replication_pad1d.default, aten.replication_pad2d.default, aten.replication_pad3d.default)
_border_backward(
    "reflect", aten.reflection_pad1d_backward.default, aten.reflection_pad2d_backward.default,
    aten.reflection_pad3d_backward.default,
)  # fmt: skip
_border_backward(
    "edge", aten.replication_pad1d_backward.default, aten.replication_pad2d_backward.default,
    aten.replication_pad3d_backward.default,
)  # fmt: skip
