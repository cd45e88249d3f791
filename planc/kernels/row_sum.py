"""Column sums of a matrix, as gradients of biases and scales need them, and of its squares, for norms: repeatable.

X [M, C] of any float type gives float32 [C]. ONNX Runtime's ReduceSum over rows adds by atomics on CUDA, and a product with
a row of ones wants a float32 copy of a half-precision matrix to keep the sum's digits.
"""

from collections.abc import Sequence

from onnx import TensorProto

from planc.kernels.body import Body
from planc.kernels.device import WORKSPACE, Buffer, Launch, SourceKernel
from planc.kernels.operator import Call, Operator, TensorType, register
from planc.kernels.source import C_TYPES, VECTOR_BYTES, source_of, width_of

_THREADS = 256

_BLOCKS = 132 * 4
"""Blocks that the matrix is cut into: four for each multiprocessor of an H100. It decides the order of sums, so it is the
same on every card."""

_LEAST = 64
"""Rows of a range at least: below, adding the ranges costs more than it saves."""


def _types(call: Call) -> tuple[TensorType, ...]:
    x = call.inputs[0]
    if len(x.shape) != 2 or x.dtype not in C_TYPES:
        raise call.refuse("a float32, float16 or bfloat16 matrix")
    return (TensorType(TensorProto.FLOAT, x.shape[1:]),)


def _meaning(call: Call, body: Body) -> Sequence[str]:
    x = body.wide(body.inputs[0], call.inputs[0].dtype)
    return [body.sum(body.op("Mul", x, x) if call.whole("squares") else x, [0], keepdims=False)]


def _kernel(call: Call, wide: bool = True) -> SourceKernel | None:
    x = call.inputs[0]
    if not x.size:
        return None
    rows, columns = x.shape
    width = width_of(x.nbytes // x.size, columns)
    vectors = columns // width
    across = next(n for n in (32, 16, 8, 4, 2, 1) if n <= vectors)
    tiles = -(-vectors // across)
    share = max(_LEAST, _THREADS // across, -(-rows // max(1, _BLOCKS // tiles)))
    splits = -(-rows // share)
    constants = {
        "C": columns, "M": rows, "W": width, "ACROSS": across, "DOWN": _THREADS // across, "SPLITS": splits,
        "SHARE": share, "WIDE": wide, "SQUARES": bool(call.whole("squares")),
    }  # fmt: skip
    part = Buffer(WORKSPACE)
    launches = (
        Launch("PREFIX_parts", (tiles, splits, 1), _THREADS, (Buffer(0), part), frozenset({1})),
        Launch("PREFIX_join", (-(-columns // 8), 1, 1), _THREADS, (part, Buffer(1)), frozenset({1})),
    )
    narrow = _kernel(call, wide=False) if wide else None
    source = source_of(constants, x.dtype, "row_sum.cu")
    return SourceKernel(source, launches, 4 * splits * columns, alignment=VECTOR_BYTES, narrow=narrow)


ROW_SUM = register(Operator("RowSum", ("x",), ("sums",), _types, _meaning, {"squares": 0}, cuda=_kernel))
"""The sum of all rows, of their squares where `squares` is 1."""

__all__ = ["ROW_SUM"]
