"""The gradient of reading rows of a table by their numbers: equal numbers' rows are added in the order they stand, without
atomics, so that the bits repeat.

Numbers [N], int64 or int32 (negative ones count from the end), rows dY [N, D] of any float type; the result [count, D] is
float32, and begins as `base` where that is given: a table that is also a projection's weight has a gradient already.
"""

from collections.abc import Sequence

from onnx import TensorProto

from planc.kernels.body import Body
from planc.kernels.device import WORKSPACE, AddedRowsKernel, Buffer, Launch, SourceKernel
from planc.kernels.operator import Call, Operator, TensorType, register
from planc.kernels.source import C_TYPES, VECTOR_BYTES, source_of, width_of

MOST = 1 << 16
"""Numbers at most for the kernels: their places in sorted order are found by comparing each with each."""

_INDICES = {TensorProto.INT64: "long long", TensorProto.INT32: "int"}


def _types(call: Call) -> tuple[TensorType, ...]:
    ids, dy, *base = call.inputs
    if len(dy.shape) != 2 or dy.dtype not in C_TYPES or ids.dtype not in _INDICES or ids.shape != dy.shape[:1]:
        raise call.refuse("int64 or int32 numbers [N] and rows [N, D] of a float type up to 32 bits")
    made = TensorType(TensorProto.FLOAT, (call.whole("count"), dy.shape[1]))
    if any(b != made for b in base):
        raise call.refuse(f"a float32 base {list(made.shape)}")
    return (made,)


def _meaning(call: Call, body: Body) -> Sequence[str]:
    ids, dy, *base = call.inputs
    shape, rows = call.outputs[0].shape, body.wide(body.inputs[1], dy.dtype)
    onto = body.inputs[2] if base else body.op("Expand", body.number(0.0), body.ints(*shape))
    index = body.op("Expand", body.reshape(body.inputs[0], [ids.size, 1]), body.ints(*dy.shape))
    return [body.op("ScatterElements", onto, index, rows, axis=0, reduction="add")]


# --- kernels for a card

_THREADS = 256

_SEGMENT = 16
"""Rows in sorted order that one block adds; it decides the order of sums, so it is the same on every card."""

_BLOCKS = 132 * 4
"""Blocks that comparisons are cut into: four for each multiprocessor of an H100."""


def has_kernel(ids: int, width: int, dtype: int) -> bool:
    """Whether a card has kernels for so many numbers and rows of this width and element type."""
    return 0 < ids <= MOST and width > 0 and dtype in C_TYPES


def _kernel(call: Call, wide: bool = True) -> SourceKernel | None:
    (ids, dy, *base), made = call.inputs, call.outputs[0]
    if not has_kernel(ids.size, dy.shape[-1], dy.dtype) or not made.size:
        return None
    n, columns = dy.shape
    width = width_of(max(4, dy.nbytes // dy.size), columns)
    blocks = -(-n // _THREADS)
    share = _THREADS * max(1, -(-blocks * blocks // _BLOCKS))
    splits = -(-n // share)
    segments = -(-n // _SEGMENT)
    constants = {
        "N": n, "D": columns, "W": width, "COUNT": made.shape[0], "SPLITS": splits, "SHARE": share,
        "SEGMENT": _SEGMENT, "SEGMENTS": segments, "VECTORS": columns // width, "WIDE": wide, "BASED": bool(base),
        "LONG": ids.dtype == TensorProto.INT64,
    }  # fmt: skip
    ranks, order, sorted_ids = (Buffer(WORKSPACE, 4 * n * k) for k in (2, 0, 1))
    after = 4 * n * (2 + splits)
    part, to = Buffer(WORKSPACE, -(-after // VECTOR_BYTES) * VECTOR_BYTES), Buffer(len(call.inputs))
    vectors = (-(-(columns // width) // 32), 1, 1)
    filled = max(1, min(_BLOCKS * 4, -(-made.size // (width * _THREADS))))
    launches = (
        Launch("PREFIX_compare", (blocks, splits, 1), _THREADS, (Buffer(0), ranks), frozenset({1})),
        Launch("PREFIX_place", (blocks, 1, 1), _THREADS, (Buffer(0), ranks, order, sorted_ids), frozenset({2, 3})),
        Launch("PREFIX_fill", (filled, 1, 1), _THREADS, (Buffer(2 if base else 1), to), frozenset({1})),
        Launch(
            "PREFIX_add", (vectors[0], segments, 1), 32, (Buffer(1), order, sorted_ids, to, part),
            frozenset({4}), frozenset({3}),
        ),
        Launch(
            "PREFIX_join", (vectors[0], segments, 1), 32, (part, sorted_ids, to), frozenset(), frozenset({2})
        ),
    )  # fmt: skip
    workspace = part.offset + 4 * 2 * segments * columns
    narrow = _kernel(call, wide=False) if wide else None
    source = source_of(constants, dy.dtype, "embedding_gradient.cu")
    return SourceKernel(source, launches, workspace, alignment=VECTOR_BYTES, narrow=narrow)


# --- on the CPU

_NARROWEST = 64
"""Elements of a row at least: below, adding element by element is as fast."""


def adds_rows(columns: int, dtype: int) -> bool:
    """Whether planc adds rows of this width and element type on the CPU."""
    return columns >= _NARROWEST and dtype == TensorProto.FLOAT


def _added_rows(call: Call) -> AddedRowsKernel | None:
    ids, dy, *base = call.inputs
    if not adds_rows(dy.shape[1], dy.dtype):
        return None
    rows, columns = dy.shape
    return AddedRowsKernel(rows, columns, call.whole("count"), ids.dtype == TensorProto.INT64, bool(base))


EMBEDDING_GRADIENT = register(
    Operator(
        "EmbeddingGradient",
        ("ids", "dy", "base"),
        ("dtable",),
        _types,
        _meaning,
        {"count": 1},
        optional=1,
        cuda=_kernel,
        cpu=_added_rows,
        in_place=(2,),
    )
)
"""dtable[r] = base[r] + the sum of dy[i] over all i with ids[i] = r."""

__all__ = ["EMBEDDING_GRADIENT", "MOST", "adds_rows", "has_kernel"]
