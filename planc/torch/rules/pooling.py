"""Pools and borders."""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from onnx import helper

from planc.errors import ModelError
from planc.torch.lowering import TorchLowering, aten, lower
from planc.torch.tensors import Recorded
from planc.training.apply import emit_forward, forward_node, gradients_of
from planc.training.emit.builder import Array, Var
from planc.training.registry import ForwardNode

T = TypeVar("T")


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
    """Maximum of each window; what the gradient needs instead of torch's indices. A sample may come without batch."""
    dims = _dims(c)
    if self.rank == dims + 1:
        return _unbatched(c, max_pool, self, kernel_size, stride, padding, dilation, ceil_mode)
    del ceil_mode
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
    if not isinstance(indices, Recorded):
        raise ModelError("a max pool's gradient without its forward operator has no lowering to ONNX")
    dy = c.b.reshape(grad_output, indices.node.output.shape)
    return c.b.reshape(gradients_of(c.b, indices.node, [dy], [0])[0], self.shape)


def _dims(c: TorchLowering) -> int:
    """The number of axes that the pool being lowered moves along."""
    return 3 if "3d" in str(c.node.target) else 2


def _unbatched(c: TorchLowering, handler: Callable[..., T], x: Var, *settings: Any) -> T:
    """A pool of one sample, as one of a batch of one."""
    shape, dtype = c.specs[0]
    c.specs = [((1, *shape), dtype), *c.specs[1:]]
    found: Any = handler(c, c.b.reshape(x, (1, *x.shape)), *settings)
    made: Any
    if isinstance(found, Var):
        made = c.b.reshape(found, shape)
    else:
        made = c.b.reshape(found[0], shape), Recorded(found[1].node, shape)
    return made  # type: ignore[no-any-return]


def _average_node(
    c: TorchLowering, x: Var, y: Var, kernel_size: Any, stride: Any, padding: Any, _ceil_mode: bool,
    count_include_pad: bool, divisor_override: int | None,
) -> ForwardNode:  # fmt: skip
    dims = x.rank - 2
    kernel, given = _full(kernel_size, dims, []), _full(padding, dims, [0] * dims)
    strides = _full(stride, dims, kernel)
    pads = _pads(x, y.shape, kernel, strides, given, [1] * dims)
    own = _own_divisor(given, pads, count_include_pad, divisor_override)
    include = int(own or (count_include_pad and pads[dims:] == given))
    return forward_node(
        c.b, c.table, "AveragePool", [x], [y], kernel_shape=kernel, strides=strides, pads=pads,
        count_include_pad=include,
    )  # fmt: skip


@lower(aten.avg_pool2d.default, aten.avg_pool3d.default)
def average_pool(
    c: TorchLowering, self: Var, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> Var:  # fmt: skip
    """Mean of each window, or its sum over a divisor."""
    settings = (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    if self.rank == _dims(c) + 1:
        return _unbatched(c, average_pool, self, *settings)
    y = Var(c.fresh("AveragePool"), *c.specs[0])
    emit_forward(c.b, _average_node(c, self, y, *settings))
    share = _shares(c, self, y, *settings)
    return y if share is None else c.b.mul(y, share)


@lower(aten.avg_pool2d_backward.default, aten.avg_pool3d_backward.default)
def average_pool_backward(
    c: TorchLowering, grad_output: Var, self: Var, kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool,
    count_include_pad: bool, divisor_override: int | None,
) -> Var:  # fmt: skip
    """Each window's gradient shared among its inputs."""
    settings = (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    shape, x, dy = self.shape, self, grad_output
    if x.rank == _dims(c) + 1:
        x, dy = (c.b.reshape(v, (1, *v.shape)) for v in (x, dy))
    share = _shares(c, x, dy, *settings)
    dy = dy if share is None else c.b.mul(dy, share)
    return c.b.reshape(gradients_of(c.b, _average_node(c, x, dy, *settings), [dy], [0])[0], shape)


def _own_divisor(given: list[int], pads: list[int], include: bool, override: int | None) -> bool:
    """Whether ONNX's operator divides otherwise: by a number given, or where a ceiling reaches beyond counted padding."""
    return override is not None or (include and any(given) and pads[len(given) :] != given)


def _shares(
    c: TorchLowering, x: Var, y: Var, kernel_size: Any, stride: Any, padding: Any, _ceil_mode: bool, include: bool,
    override: int | None,
) -> Var | float | None:  # fmt: skip
    """What each mean over a whole window is to be multiplied by, None where it is right."""
    dims = x.rank - 2
    kernel, given = _full(kernel_size, dims, []), _full(padding, dims, [0] * dims)
    strides = _full(stride, dims, kernel)
    pads = _pads(x, y.shape, kernel, strides, given, [1] * dims)
    if not _own_divisor(given, pads, include, override):
        return None
    if override is not None:
        return math.prod(kernel) / override
    counts = np.ones((1, 1), np.float64)
    for i in range(dims):
        starts = np.arange(y.shape[2 + i]) * strides[i] - given[i]
        ends = np.minimum(starts + kernel[i], x.shape[2 + i] + given[i])
        counts = counts[..., None] * (ends - starts)
    return c.b.constant((math.prod(kernel) / counts).astype(helper.tensor_dtype_to_np_dtype(x.dtype)))


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


def along_last(c: TorchLowering, a: Var, matrices: Sequence[Array]) -> Var:
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
    return along_last(c, self, [_adaptive_weights(s, o) for s, o in zip(size, output_size, strict=True)])


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
    return along_last(c, grad_output, [_adaptive_weights(s, o).T for s, o in zip(size, out, strict=True)])


def _border_rows(size: int, before: int, after: int, mode: str) -> Array:
    """[size + before + after, size]: which row each padded row repeats."""
    return np.asarray(np.eye(size)[_border_places(size, before, after, mode)])


def _border_places(size: int, before: int, after: int, mode: str) -> Array:
    """Which position each padded one repeats; negative amounts crop."""
    rows = np.pad(np.arange(size), (max(0, before), max(0, after)), mode=mode)  # type: ignore[call-overload]
    return np.asarray(rows[max(0, -before) : len(rows) - max(0, -after)])


def _pads_of(padding: list[int]) -> list[tuple[int, int]]:
    """(before, after) of each padded axis in order; torch lists them from the last axis on."""
    return [(padding[i], padding[i + 1]) for i in reversed(range(0, len(padding), 2))]


def _border(mode: str, *targets: Any) -> None:
    """Register the padding of the last axes in an ONNX mode."""

    def handler(c: TorchLowering, self: Var, padding: list[int]) -> Var:
        pairs = [(0, 0)] * (self.rank - len(padding) // 2) + _pads_of(padding)
        pads = c.b.ints([before for before, _ in pairs] + [after for _, after in pairs])
        if min(padding) < 0:
            found = self
            for axis, pair in enumerate(pairs):
                if any(pair):
                    taken = _border_places(found.shape[axis], *pair, mode)
                    shape = (*found.shape[:axis], len(taken), *found.shape[axis + 1 :])
                    found = c.b.op("Gather", [found, c.b.ints(taken)], shape, axis=axis)
            return found
        return c.b.op("Pad", [self, pads], c.specs[0][0], mode=mode)

    lower(*targets)(handler)


def _border_backward(mode: str, *targets: Any) -> None:
    """Register its gradient: sums over the copies, as a product per axis."""

    def handler(c: TorchLowering, grad_output: Var, self: Var, padding: list[int]) -> Var:
        sizes = self.shape[self.rank - len(padding) // 2 :]
        pairs = zip(sizes, _pads_of(padding), strict=True)
        return along_last(c, grad_output, [_border_rows(n, b, a, mode).T for n, (b, a) in pairs])

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
