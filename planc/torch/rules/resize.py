"""Interpolation."""

from typing import Any

import numpy as np

from planc.torch.lowering import TorchLowering, aten, lower
from planc.training.apply import emit_forward, forward_node, gradients_of
from planc.training.emit.builder import Var
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
