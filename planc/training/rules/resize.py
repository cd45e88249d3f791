"""Gradient of Resize: the transposed interpolation, one axis at a time."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from planc.errors import ModelError
from planc.graph.annotations import IR_VERSION
from planc.training.emit.builder import Array, Builder, Var
from planc.training.emit.opset import OPSET
from planc.training.registry import ForwardNode, Gradients, OutputGradients, gradient, sole


@gradient("Resize")
def resize(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """dX = dY multiplied by the transposed interpolation matrix of every resized axis.

    Interpolation is linear and separable, so the operator itself, run on an identity matrix, gives each matrix
    exactly, whatever the coordinate mode. Nearest by a whole factor is a sum over the copies.
    """
    x, dy = node.input(0), sole(grads)
    if node.attribute("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        raise ModelError(f"{node.where}: the gradient of tf_crop_and_resize is not supported")
    scales = node.constant(2)
    axes = [axis % x.rank for axis in node.attribute("axes", range(x.rank))]
    given = dict(zip(axes, scales, strict=True)) if scales is not None and scales.size else {}
    for axis, (size, out) in enumerate(zip(x.shape, dy.shape, strict=True)):
        scale = float(given.get(axis, 1.0)) if given else None
        if out == size and scale in (None, 1.0):
            continue
        weights = _interpolation(node, size, out, scale).astype(helper.tensor_dtype_to_np_dtype(x.dtype))
        dy = _apply(b, dy, axis, _Axis(weights, size, out))
    return {0: dy}


@dataclass(frozen=True)
class _Axis:
    """The interpolation of one axis: `weights` [size, out], the transpose of the forward map."""

    weights: Array
    size: int
    out: int

    def copies(self) -> int:
        """How often each input is repeated when the axis is plainly repeated, else 0."""
        factor = self.out // self.size
        repeated = np.repeat(np.eye(self.size), factor, axis=1) if factor * self.size == self.out else None
        return factor if repeated is not None and np.array_equal(repeated, self.weights) else 0


def _apply(b: Builder, dy: Var, axis: int, along: _Axis) -> Var:
    shape = (*dy.shape[:axis], along.size, *dy.shape[axis + 1 :])
    factor = along.copies()
    if factor:
        split = b.reshape(dy, (*dy.shape[:axis], along.size, factor, *dy.shape[axis + 1 :]))
        return b.sum(split, [axis + 1], keepdims=False)
    if axis == dy.rank - 1:
        return b.reshape(b.matmul(dy, b.constant(np.ascontiguousarray(along.weights.T))), shape)
    lead = int(np.prod(dy.shape[:axis]))
    rows = b.reshape(dy, (lead, along.out, dy.size // lead // along.out))
    return b.reshape(b.matmul(b.constant(along.weights), rows), shape)


def _interpolation(node: ForwardNode, size: int, out: int, scale: float | None) -> Array:
    """[size, out]: what each input position contributes to each output position."""
    given = np.array([1.0, scale], np.float32) if scale is not None else np.zeros(0, np.float32)
    inputs = ["x", "", "scales"] if scale is not None else ["x", "", "", "sizes"]
    initializers = [
        numpy_helper.from_array(np.eye(size, dtype=np.float32), "x"),
        numpy_helper.from_array(given, "scales"),
        numpy_helper.from_array(np.array([size, out], np.int64), "sizes"),
    ]
    kept: dict[str, Any] = {k: v for k, v in node.attributes.items() if k not in ("axes", "keep_aspect_ratio_policy")}
    made = helper.make_node("Resize", inputs, ["y"], name="resize", **kept)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([made], "resize", [], [y], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    results: Any = ReferenceEvaluator(model).run(None, {})
    return np.asarray(results[0])
