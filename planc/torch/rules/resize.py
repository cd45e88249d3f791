"""Interpolation."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from planc.torch.lowering import TorchLowering, aten, lower
from planc.torch.rules.pooling import along_last
from planc.training.apply import emit_forward, forward_node, gradients_of
from planc.training.emit.builder import Array, Var
from planc.training.registry import ForwardNode


def _resize_node(
    c: TorchLowering, x: Var, y: Var, mode: str, align_corners: bool, scales: tuple[float | None, ...]
) -> ForwardNode:
    """The Resize operator of torch's interpolation; given scale factors, not sizes, set its coordinates."""
    transform = "asymmetric" if mode == "nearest" else "align_corners" if align_corners else "half_pixel"
    attributes: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": transform}
    if mode == "nearest":
        attributes["nearest_mode"] = "floor"
    if all(scales):
        factors = c.b.constant(np.array([1.0, 1.0, *(float(s or 0) for s in scales)], np.float32))
        inputs = [x, None, factors]
    else:
        inputs = [x, None, None, c.b.ints(y.shape)]
    return forward_node(c.b, c.table, "Resize", inputs, [y], **attributes)


def _resize(c: TorchLowering, x: Var, mode: str, align_corners: bool, *scales: float | None) -> Var:
    y = Var(c.fresh("Resize"), *c.specs[0])
    emit_forward(c.b, _resize_node(c, x, y, mode, align_corners, scales))
    return y


def _resize_backward(
    c: TorchLowering, dy: Var, size: list[int], mode: str, align_corners: bool, *scales: float | None
) -> Var:
    node = _resize_node(c, Var("", tuple(size), dy.dtype), dy, mode, align_corners, scales)
    return gradients_of(c.b, node, [dy], [0])[0]


@lower(aten.upsample_nearest2d.default)
def nearest(
    c: TorchLowering, self: Var, output_size: Any, scales_h: float | None = None, scales_w: float | None = None
) -> Var:
    """Nearest neighbour."""
    del output_size
    return _resize(c, self, "nearest", False, scales_h, scales_w)


@lower(aten.upsample_nearest2d_backward.default)
def nearest_backward(
    c: TorchLowering, grad_output: Var, output_size: Any, input_size: list[int], scales_h: float | None = None,
    scales_w: float | None = None,
) -> Var:  # fmt: skip
    """The sum over the copies."""
    del output_size
    return _resize_backward(c, grad_output, input_size, "nearest", False, scales_h, scales_w)


@lower(aten.upsample_bilinear2d.default)
def bilinear(
    c: TorchLowering, self: Var, output_size: Any, align_corners: bool, scales_h: float | None = None,
    scales_w: float | None = None,
) -> Var:  # fmt: skip
    """Linear along both axes."""
    del output_size
    return _resize(c, self, "linear", align_corners, scales_h, scales_w)


@lower(aten.upsample_bilinear2d_backward.default)
def bilinear_backward(
    c: TorchLowering, grad_output: Var, output_size: Any, input_size: list[int], align_corners: bool,
    scales_h: float | None = None, scales_w: float | None = None,
) -> Var:  # fmt: skip
    """The transposed interpolation."""
    del output_size
    return _resize_backward(c, grad_output, input_size, "linear", align_corners, scales_h, scales_w)


def _antialiased(size: int, out: int, align: bool, scale: float | None, cubic: bool) -> Array:
    """[out, size]: a triangle, or a cubic of coefficient -1/2, as wide as the step between outputs, for each of them."""
    step = (size - 1) / (out - 1) if align and out > 1 else 0.0 if align else 1 / scale if scale else size / out
    wide = max(1.0, step)
    weights = np.zeros((out, size))
    for i in range(out):
        center, reach = step * (i + 0.5), wide * (2 if cubic else 1)
        first, last = max(0, int(center - reach + 0.5)), min(size, int(center + reach + 0.5))
        distance = np.abs((np.arange(first, last) - center + 0.5) / wide)
        row = _cubic(distance) if cubic else np.maximum(0.0, 1 - distance)
        weights[i, first:last] = row / row.sum()
    return weights


def _cubic(x: Array) -> Array:
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _register_antialiased(cubic: bool, forward: Any, backward: Any) -> None:
    def matrices(sizes: Sequence[int], outs: Sequence[int], align: bool, scales: Sequence[float | None]) -> list[Array]:
        return [_antialiased(n, o, align, s, cubic) for n, o, s in zip(sizes, outs, scales, strict=True)]

    def handler(
        c: TorchLowering, self: Var, output_size: list[int], align_corners: bool, scales_h: float | None = None,
        scales_w: float | None = None,
    ) -> Var:  # fmt: skip
        """A product per axis."""
        return along_last(c, self, matrices(self.shape[2:], output_size, align_corners, (scales_h, scales_w)))

    def gradient(
        c: TorchLowering, grad_output: Var, output_size: list[int], input_size: list[int], align_corners: bool,
        scales_h: float | None = None, scales_w: float | None = None,
    ) -> Var:  # fmt: skip
        """The transposed products."""
        found = matrices(input_size[2:], output_size, align_corners, (scales_h, scales_w))
        return along_last(c, grad_output, [m.T for m in found])

    lower(forward)(handler)
    lower(backward)(gradient)


_register_antialiased(False, aten._upsample_bilinear2d_aa.default, aten._upsample_bilinear2d_aa_backward.default)
_register_antialiased(True, aten._upsample_bicubic2d_aa.default, aten._upsample_bicubic2d_aa_backward.default)


@lower(aten.upsample_bicubic2d.default)
def bicubic(
    c: TorchLowering, self: Var, output_size: Any, align_corners: bool, scales_h: float | None = None,
    scales_w: float | None = None,
) -> Var:  # fmt: skip
    """Cubic along both axes, coefficient -3/4."""
    del output_size
    return _resize(c, self, "cubic", align_corners, scales_h, scales_w)


@lower(aten.upsample_bicubic2d_backward.default)
def bicubic_backward(
    c: TorchLowering, grad_output: Var, output_size: Any, input_size: list[int], align_corners: bool,
    scales_h: float | None = None, scales_w: float | None = None,
) -> Var:  # fmt: skip
    """The transposed interpolation."""
    del output_size
    return _resize_backward(c, grad_output, input_size, "cubic", align_corners, scales_h, scales_w)
