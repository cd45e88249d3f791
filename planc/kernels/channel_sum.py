"""Sums of [N, C, ...] over everything but the channels: gradients of biases, float32 [C] whatever X is.

It has no kernel of its own: where convolutions lie channels last it is the sum of a matrix's rows
(`planc.training.layout`, `planc.kernels.row_sum`).
"""

from collections.abc import Sequence

from onnx import TensorProto

from planc.kernels.body import Body
from planc.kernels.operator import Call, Operator, TensorType, register
from planc.kernels.source import C_TYPES


def _types(call: Call) -> tuple[TensorType, ...]:
    (x,) = call.inputs
    if x.dtype not in C_TYPES or len(x.shape) < 2:
        raise call.refuse("a float32, float16 or bfloat16 tensor of two axes or more")
    return (TensorType(TensorProto.FLOAT, (x.shape[1],)),)


def _meaning(call: Call, body: Body) -> Sequence[str]:
    (x,) = call.inputs
    axes = [i for i in range(len(x.shape)) if i != 1]
    return [body.sum(body.wide(body.inputs[0], x.dtype), axes, keepdims=False)]


CHANNEL_SUM = register(Operator("ChannelSum", ("x",), ("sum",), _types, _meaning))
