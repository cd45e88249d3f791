"""Normalisation layers and softmax."""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from onnx import helper

from planc.errors import ModelError
from planc.kernels.group_norm import GROUP_NORM, GROUP_NORM_GRADIENT
from planc.kernels.source import C_TYPES
from planc.torch.lowering import TorchLowering, aten, lower
from planc.torch.tensors import Deferred, Recorded
from planc.training.apply import emit_forward, forward_node, gradients_of
from planc.training.emit.builder import Var
from planc.training.ranks import of_all_ranks
from planc.training.registry import ForwardNode
from planc.training.rules.reductions import channel_sum


def _vector(c: TorchLowering, given: Var | None, size: int, number: float, dtype: int) -> Var:
    return given if given is not None else c.b.full((size,), number, dtype)


def _batch_norm_node(
    c: TorchLowering, x: Var, y: Var, weight: Var | None, bias: Var | None, statistics: tuple[Var | None, ...],
    training: bool, epsilon: float,
) -> ForwardNode:  # fmt: skip
    channels = x.shape[1]
    scale, shift = _vector(c, weight, channels, 1.0, x.dtype), _vector(c, bias, channels, 0.0, x.dtype)
    mean, variance = (_vector(c, s, channels, n, x.dtype) for s, n in zip(statistics, (0.0, 1.0), strict=True))
    inputs = [x, scale, shift, mean, variance]
    return forward_node(
        c.b, c.table, "BatchNormalization", inputs, [y], epsilon=float(epsilon), training_mode=int(training)
    )


@lower(aten._native_batch_norm_legit_functional.default, raw=("running_mean", "running_var"))
def batch_norm(
    c: TorchLowering, input: Var, weight: Var | None, bias: Var | None, running_mean: Any, running_var: Any,
    training: bool, momentum: float, eps: float,
) -> tuple[Any, ...]:  # fmt: skip
    """Batch statistics, the statistics' record for the gradient, and the running statistics that follow.

    torch keeps the unbiased variance in its running statistics. They are emitted where they are read: in an update.
    """
    y = Var(c.fresh("BatchNormalization"), *c.specs[0])
    known = (None, None) if training else (c.value(running_mean), c.value(running_var))
    node = _batch_norm_node(c, input, y, weight, bias, known, training, eps)
    record = Recorded(emit_forward(c.b, node)[0])
    if not training:
        return y, record, record, *known
    count = input.size // input.shape[1]
    unbiased = count / (count - 1) if count > 1 else 1.0
    moved = []
    for statistic, running, factor in (("mean", running_mean, 1.0), ("variance", running_var, unbiased)):
        batch = record.node.saved[statistic]
        moved.append(Deferred(batch.shape, partial(_moved, c, running, batch, momentum, factor)))
    return y, record, record, *moved


def _moved(c: TorchLowering, running: Any, batch: Var, momentum: float, factor: float) -> Var:
    """running (1 - momentum) + batch factor momentum, rank by rank."""
    value = c.value(running)
    for part in of_all_ranks(c.b, batch):
        kept = c.b.mul(value, 1 - momentum)
        value = c.b.add(kept, c.b.cast(c.b.mul(part, momentum * factor), value.dtype))
    return value


@lower(aten._native_batch_norm_legit.no_stats)
def batch_norm_without_statistics(
    c: TorchLowering, input: Var, weight: Var | None, bias: Var | None, training: bool, momentum: float, eps: float
) -> tuple[Any, ...]:
    """Batch statistics only."""
    del momentum
    y = Var(c.fresh("BatchNormalization"), *c.specs[0])
    node = _batch_norm_node(c, input, y, weight, bias, (None, None), training, eps)
    record = Recorded(emit_forward(c.b, node)[0])
    return y, record, record


@lower(aten._native_batch_norm_legit_no_training.default)
def batch_norm_frozen(
    c: TorchLowering, input: Var, weight: Var | None, bias: Var | None, running_mean: Var, running_var: Var,
    momentum: float, eps: float,
) -> tuple[Any, ...]:  # fmt: skip
    """Normalisation by the running statistics, which stay as they are."""
    y, record, *_ = batch_norm(c, input, weight, bias, running_mean, running_var, False, momentum, eps)
    return y, record, record


@lower(aten.native_batch_norm_backward.default, raw=("running_mean", "running_var", "save_mean", "save_invstd"))
def batch_norm_backward(
    c: TorchLowering, grad_out: Var, input: Var, weight: Var | None, running_mean: Any,
    running_var: Any, save_mean: Any, save_invstd: Any, train: bool, eps: float, output_mask: list[bool],
) -> tuple[Var | None, ...]:  # fmt: skip
    """The gradients of input, weight and bias."""
    del save_invstd
    if isinstance(save_mean, Recorded):
        node = save_mean.node
    elif not train:
        known = (c.value(running_mean), c.value(running_var))
        node = _batch_norm_node(c, input, grad_out, weight, None, known, False, eps)
    else:
        raise ModelError("a batch-norm's gradient without its forward operator has no lowering to ONNX")
    found = gradients_of(c.b, node, [grad_out], [i for i, asked in enumerate(output_mask) if asked])
    return tuple(found.get(i) for i in range(3))


def _row_norm(
    c: TorchLowering, op_type: str, x: Var, shape: list[int], weight: Var | None, bias: Var | None, eps: float
) -> tuple[Any, Recorded]:
    """The output of a norm over the last axes, and its record for the gradient, which computes statistics anew."""
    numpy_type = helper.tensor_dtype_to_np_dtype(x.dtype)
    scale = weight or c.b.constant(np.ones(shape, numpy_type))
    inputs, y = [x, scale] if bias is None else [x, scale, bias], Var(c.fresh(op_type), *c.specs[0])
    node = forward_node(c.b, c.table, op_type, inputs, [y], axis=-len(shape), epsilon=float(eps))
    return y, Recorded(emit_forward(c.b, node)[0])


def _row_norm_backward(c: TorchLowering, grad_out: Var, statistic: Any, output_mask: list[bool]) -> list[Var | None]:
    if not isinstance(statistic, Recorded):
        raise ModelError("a norm's gradient without its forward operator has no lowering to ONNX")
    found = gradients_of(c.b, statistic.node, [grad_out], [i for i, asked in enumerate(output_mask) if asked])
    return [found.get(i) for i in range(len(output_mask))]


@lower(aten.native_layer_norm.default)
def layer_norm(
    c: TorchLowering, input: Var, normalized_shape: list[int], weight: Var | None, bias: Var | None, eps: float
) -> tuple[Any, ...]:
    """The output, and the record for the gradient in the place of mean and deviation."""
    y, record = _row_norm(c, "LayerNormalization", input, normalized_shape, weight, bias, eps)
    return y, record, record


@lower(torch.ops.planc.rms_norm.default)
def rms_norm(c: TorchLowering, x: Var, shape: list[int], weight: Var | None, eps: float) -> Any:
    """The output; the gradient finds the forward operator by its input."""
    y, record = _row_norm(c, "RMSNormalization", x, shape, weight, None, eps)
    c.forward_of[_rms_key(x, shape, weight, eps)] = record.node
    return y


def _rms_key(x: Var, shape: list[int], weight: Var | None, eps: float) -> tuple[Any, ...]:
    return "RMSNormalization", x.name, tuple(shape), weight and weight.name, eps


@lower(torch.ops.planc.rms_norm_backward.default)
def rms_norm_backward(
    c: TorchLowering, grad: Var, x: Var, shape: list[int], weight: Var | None, eps: float
) -> tuple[Var | None, ...]:
    """The gradients of input and weight."""
    node = c.forward_of[_rms_key(x, shape, weight, eps)]
    found = gradients_of(c.b, node, [grad], [0, *([1] if weight else [])])
    return found[0], found.get(1)


@lower(aten.native_layer_norm_backward.default, raw=("mean", "rstd"))
def layer_norm_backward(
    c: TorchLowering, grad_out: Var, input: Var, normalized_shape: list[int], mean: Any, rstd: Any,
    weight: Var | None, bias: Var | None, output_mask: list[bool],
) -> tuple[Var | None, ...]:  # fmt: skip
    """The gradients of input, weight and bias."""
    del input, normalized_shape, rstd, weight, bias
    return tuple(_row_norm_backward(c, grad_out, mean, output_mask))


@lower(aten.native_group_norm.default)
def group_norm(
    c: TorchLowering, input: Var, weight: Var | None, bias: Var | None, N: int, C: int, HxW: int, group: int,
    eps: float,
) -> tuple[Any, ...]:  # fmt: skip
    """Groups of channels normalised per sample (Wu and He, 2018): an instance norm of [N, group, rest], then scaled."""
    del C, HxW
    if c.table.kernels and input.size and input.dtype in C_TYPES:
        return _group_norm_by_kernel(c, input, weight, bias, group, eps)
    b, column = c.b, (1, input.shape[1], *[1] * (input.rank - 2))
    rows = c.view(input, (N, group, input.size // (N * group)))
    one, zero = (b.full((group,), n, input.dtype) for n in (1.0, 0.0))
    xhat = Var(c.fresh("InstanceNormalization"), rows.shape, rows.dtype)
    node = forward_node(b, c.table, "InstanceNormalization", [rows, one, zero], [xhat], epsilon=float(eps))
    record = Recorded(emit_forward(b, node)[0])
    y = c.view(xhat, input.shape)
    y = y if weight is None else b.mul(y, c.view(weight, column))
    return (y if bias is None else b.add(y, c.view(bias, column))), record, record


def _group_norm_by_kernel(
    c: TorchLowering, x: Var, weight: Var | None, bias: Var | None, groups: int, eps: float
) -> tuple[Any, ...]:
    """As planc's own operator; the record's node has x, scale and shift as inputs."""
    scale, shift = _vector(c, weight, x.shape[1], 1.0, x.dtype), _vector(c, bias, x.shape[1], 0.0, x.dtype)
    if scale.dtype != shift.dtype:
        scale, shift = c.b.wide(scale), c.b.wide(shift)
    y, statistics = c.b.kernel(GROUP_NORM, [x, scale, shift], groups=groups, epsilon=float(eps))
    node = forward_node(c.b, c.table, GROUP_NORM.name, [x, scale, shift], [y], groups=groups, epsilon=float(eps))
    record = Recorded(replace(node, saved={"statistics": statistics}))
    return y, record, record


@lower(aten.native_group_norm_backward.default, raw=("mean", "rstd"))
def group_norm_backward(
    c: TorchLowering, grad_out: Var, input: Var, mean: Any, rstd: Any, weight: Var | None, N: int, C: int, HxW: int,
    group: int, output_mask: list[bool],
) -> tuple[Var | None, ...]:  # fmt: skip
    """The gradients of input, weight and bias; the normalised input is computed anew, so only the input is kept."""
    del rstd, N, C, HxW, group
    if not isinstance(mean, Recorded):
        raise ModelError("a group-norm's gradient without its forward operator has no lowering to ONNX")
    b, node, channels = c.b, mean.node, input.shape[1]
    if "statistics" in node.saved:
        operands = [grad_out, node.input(0), node.input(1), node.saved["statistics"]]
        made = b.kernel(GROUP_NORM_GRADIENT, operands, **node.attributes)
        return tuple(v if asked else None for v, asked in zip(made, output_mask, strict=True))
    found: list[Var | None] = [None, None, None]
    if output_mask[1]:
        again = b.op("InstanceNormalization", list(node.inputs), node.output.shape, **node.attributes)
        xhat = c.view(again, input.shape)
        found[1] = c.view(channel_sum(b, c.table, b.mul(grad_out, xhat)), (channels,))
    if output_mask[2]:
        found[2] = c.view(channel_sum(b, c.table, grad_out), (channels,))
    if output_mask[0]:
        column = (1, channels, *[1] * (input.rank - 2))
        scaled = grad_out if weight is None else b.mul(grad_out, c.view(weight, column))
        rows = gradients_of(b, node, [c.view(scaled, node.output.shape)], [0])[0]
        found[0] = c.view(rows, input.shape)
    return tuple(found)


@lower(aten._softmax.default)
def softmax(c: TorchLowering, self: Var, dim: int, half_to_float: bool = False) -> Var:
    """exp(x) / sum exp(x) along an axis."""
    del half_to_float
    return c.b.unary("Softmax", self, axis=dim % self.rank)


@lower(aten._softmax_backward_data.default)
def softmax_backward(c: TorchLowering, grad_output: Var, output: Var, dim: int, input_dtype: Any) -> Var:
    """From the output."""
    del input_dtype
    node = forward_node(c.b, c.table, "Softmax", [None], [output], axis=dim % output.rank)
    return gradients_of(c.b, node, [grad_output], [0])[0]
