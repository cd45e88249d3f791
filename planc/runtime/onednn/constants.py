"""Numbers of oneDNN's C API (`dnnl_types.h`, version 3)."""

from collections.abc import Mapping
from enum import IntEnum, IntFlag

from onnx import TensorProto

DTYPES: Mapping[int, int] = {
    TensorProto.FLOAT16: 1, TensorProto.BFLOAT16: 2, TensorProto.FLOAT: 3, TensorProto.UINT8: 6,
}  # fmt: skip
"""The library's element types by ONNX's."""


class Role(IntEnum):
    """What an argument of a primitive is to it."""

    SOURCE = 1
    SECOND = 2
    TARGET = 17
    WEIGHTS = 33
    MEAN = 49
    VARIANCE = 50
    SCALE = 51
    SHIFT = 52
    WORKSPACE = 64
    SCRATCHPAD = 80
    D_SOURCE = 129
    D_TARGET = 145
    D_WEIGHTS = 161
    D_SCALE = 255
    D_SHIFT = 256
    POST_OP = 32768
    """Times the number of a chained operation, from one on: its own second operand."""


class Query(IntEnum):
    """What a primitive description is asked for: from `SOURCE` on, the description of an argument."""

    IMPLEMENTATION = 8
    SOURCE = 129
    D_SOURCE = 130
    WEIGHTS = 131
    D_WEIGHTS = 132
    TARGET = 133
    D_TARGET = 134
    WORKSPACE = 135
    SCRATCHPAD = 136


class Prop(IntEnum):
    """Which computation of a layer."""

    FORWARD_TRAINING = 64
    FORWARD_INFERENCE = 96
    BACKWARD = 128


class Algorithm(IntEnum):
    """What a primitive computes, where its kind has several."""

    DIRECT = 1
    SOFTMAX = 0x30000
    REDUCE_MAX = 0x2FFF2
    RELU = 0x20
    SQRT = 0x25
    LINEAR = 0x26
    EXP = 0x2A
    GELU_TANH = 0x2B
    POW = 0x30
    GELU = 0x31
    RELU_BY_RESULT = 0x100
    MAX_POOL = 0x1FF
    AVERAGE_WITH_PADDING = 0x2FF
    AVERAGE = 0x3FF
    ADD = 0x1FFF0
    MUL = 0x1FFF1
    DIV = 0x1FFF4
    SUB = 0x1FFF5
    GREATER = 0x1FFF7


class Norm(IntFlag):
    """Flags of a normalization."""

    SCALE = 2
    SHIFT = 4
    RELU = 8
