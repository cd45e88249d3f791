"""A product with its cross-entropy over many classes, loss and gradients at once, in chunks of rows.

X [N, D] of any float type, the weight of the same type, [V, D] or, with `columns`, [D, V], labels [N] (int64), and the
gradient of each row's loss, float32 [N], or of every row's, (). Gives the loss of each row, the gradient of X in its type
and that of the weight in float32. Logits and their gradients, of X's type, exist for one chunk of rows at a time, in one
workspace; a row of them begins at a multiple of 16 bytes, whatever V is, which the library's fast products want.

Of more chunks come less workspace, more passes over the weight's gradient, and other bits of that gradient, as its sum over
rows is cut: numbers of chunks are variants, among which a plan chooses.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from onnx import TensorProto, helper

from planc.kernels.body import Body
from planc.kernels.cross_entropy import IGNORED, counted_labels, row_constants, row_threads
from planc.kernels.device import WORKSPACE, Buffer, Launch, Product, SourceKernel, Variants
from planc.kernels.operator import Attribute, Call, Operator, TensorType, register
from planc.kernels.source import C_TYPES, VECTOR_BYTES, source_of
from planc.units import align_up

CHUNKS = (1, 2, 4, 8, 16)

_LEAST_ROWS = 128
"""Rows of a chunk at least: fewer leave the matrix units idle."""

_SCRATCH = 4 << 20
"""Bytes of workspace lent to the BLAS library."""

_ALIGNMENT = 256
"""Of the parts of the workspace."""

_ATTRIBUTES: Mapping[str, Attribute] = {"ignored": IGNORED, "smoothing": 0.0, "columns": 0}


def _logits(call: Call) -> TensorType:
    """The type of all logits; checks the operands."""
    x, weight, labels, share = call.inputs
    matrices = len(x.shape) == len(weight.shape) == 2 and x.dtype == weight.dtype and x.dtype in C_TYPES
    if not matrices or x.shape[1] != weight.shape[0 if call.whole("columns") else 1]:
        raise call.refuse("two float matrices of one type whose inner sizes agree")
    if labels != (TensorProto.INT64, x.shape[:1]) or share not in (
        (TensorProto.FLOAT, x.shape[:1]), (TensorProto.FLOAT, ()),
    ):  # fmt: skip
        raise call.refuse("int64 labels [N] and a float32 share of each row or of all")
    return TensorType(x.dtype, (x.shape[0], weight.shape[1 if call.whole("columns") else 0]))


def _types(call: Call) -> tuple[TensorType, ...]:
    _logits(call)
    x, weight = call.inputs[:2]
    return TensorType(TensorProto.FLOAT, x.shape[:1]), x, TensorType(TensorProto.FLOAT, weight.shape)


def _meaning(call: Call, body: Body) -> Sequence[str]:
    """In float32, logits and their gradients rounded to X's type."""
    dtype, smoothing, classes = call.inputs[0].dtype, call.real("smoothing"), _logits(call).shape[1]
    x, weight = (body.wide(name, dtype) for name in body.inputs[:2])
    counts, index = counted_labels(body, body.inputs[2], call.whole("ignored"))
    counts = body.reshape(counts, [-1, 1])
    matrix = weight if call.whole("columns") else body.transpose(weight, (1, 0))
    logits = _rounded(body, body.op("MatMul", x, matrix), dtype)
    centred = body.op("Sub", logits, body.op("ReduceMax", logits, body.ints(1), keepdims=1))
    shift = body.op("Log", body.sum(body.op("Exp", centred), [1]))
    at_label = body.op("GatherElements", centred, index, axis=1)
    loss = body.op("Sub", shift, body.op("Mul", at_label, body.number(1 - smoothing)))
    slope = body.op("Exp", body.op("Sub", centred, shift))
    if smoothing:
        loss = body.op("Sub", loss, body.op("Mul", body.mean(centred, [1]), body.number(smoothing)))
        slope = body.op("Sub", slope, body.number(smoothing / max(1, classes)))
    minus = body.op("Expand", body.number(smoothing - 1), body.ints(call.inputs[0].shape[0], 1))
    slope = body.op("ScatterElements", slope, index, minus, axis=1, reduction="add")
    share = body.reshape(body.inputs[3], [-1, 1]) if call.inputs[3].shape else body.inputs[3]
    zero = body.number(0.0)
    slope = _rounded(body, body.op("Where", counts, body.op("Mul", slope, share), zero), dtype)
    dx = body.op("MatMul", slope, body.transpose(weight, (1, 0)) if call.whole("columns") else weight)
    turned = body.transpose(slope, (1, 0))
    dw = body.op("MatMul", turned, x)
    dw = body.transpose(dw, (1, 0)) if call.whole("columns") else dw
    return [body.reshape(body.op("Where", counts, loss, zero), [-1]), body.narrow(dx, dtype), dw]


def _products(call: Call) -> int:
    """Of the logits, and the gradients of both factors."""
    return 3 * _logits(call).size * call.inputs[0].shape[1]


def _rounded(body: Body, a: str, dtype: int) -> str:
    return body.wide(body.narrow(a, dtype), dtype)


# --- kernels


class _Chunks:
    """The launches for one number of chunks. The workspace holds the chunk's logits, two numbers a row, and the library's
    scratch."""

    def __init__(self, call: Call, count: int) -> None:
        logits, self.call = _logits(call), call
        self.rows, self.classes = logits.shape
        self.logits, self.width = logits, call.inputs[0].shape[1]
        self.itemsize = np.dtype(helper.tensor_dtype_to_np_dtype(logits.dtype)).itemsize
        self.stride = align_up(self.classes, VECTOR_BYTES // self.itemsize)
        self.share = -(-self.rows // count)
        self.statistics = align_up(self.share * self.stride * self.itemsize, _ALIGNMENT)
        self.scratch = self.statistics + align_up(self.share * 8, _ALIGNMENT)

    def kernel(self) -> SourceKernel:
        """The kernel, for operands at multiples of `VECTOR_BYTES` or not: only the workspace is read in vectors."""
        call = self.call
        constants = row_constants(call, self.logits, self.stride, not call.inputs[3].shape, wide=True)
        source = source_of(
            constants, self.logits.dtype, "rows.cuh", "cross_entropy.cu", "cross_entropy_gradient.cu"
        )  # fmt: skip
        launches = [step for first in range(0, self.rows, self.share) for step in self._chunk(first)]
        return SourceKernel(source, tuple(launches), self.scratch + _SCRATCH)

    def _chunk(self, first: int) -> list[Launch | Product]:
        rows, each = min(self.share, self.rows - first), self.itemsize
        logits, statistics = Buffer(WORKSPACE), Buffer(WORKSPACE, self.statistics)
        x, dx = (Buffer(position, first * self.width * each) for position in (0, 5))
        labels, loss = Buffer(2, first * 8), Buffer(4, first * 4)
        share = Buffer(3, first * 4 if self.call.inputs[3].shape else 0)
        grid, threads = (rows, 1, 1), row_threads(self.logits)
        forward = Launch("PREFIX_forward", grid, threads, (logits, labels, loss, statistics), frozenset({2, 3}))
        gradient = Launch(
            "PREFIX_gradient", grid, threads, (logits, labels, statistics, share, logits), frozenset({4})
        )  # fmt: skip
        products = self._products(rows, x, dx, logits, first > 0)
        cut = len(products) // 3
        return [*products[:cut], forward, gradient, *products[cut:]]

    def _products(self, rows: int, x: Buffer, dx: Buffer, logits: Buffer, add: bool) -> list[Product]:
        """Logits, dX and dW, each for the classes up to a multiple of a vector and for the rest: the library's fast
        products want sizes that vectors divide. A matrix of rows is, for it, its transposed of columns."""
        vector = VECTOR_BYTES // self.itemsize
        whole = self.classes // vector * vector
        parts = [(first, end) for first, end in ((whole, self.classes), (0, whole)) if first < end]
        made = [self._logits_of(rows, x, logits, *part) for part in parts]
        # dX sums over classes: the small part first, since what is there already is rounded before the next is added.
        made += [self._dx(rows, dx, logits, *part, part != parts[0]) for part in parts]
        return made + [self._dweight(rows, x, logits, *part, add) for part in parts]

    def _weight(self, position: int, first: int, itemsize: int) -> tuple[Buffer, int, bool]:
        """The weight, or its gradient, from class `first` on; the distance of its columns; whether they are of one row."""
        columns = bool(self.call.whole("columns"))
        at = Buffer(position, first * (1 if columns else self.width) * itemsize)
        return at, self.classes if columns else self.width, columns

    def _product(
        self, a: Buffer, b: Buffer, c: Buffer, sizes: tuple[int, int, int], transposed: tuple[bool, bool],
        leads: tuple[int, int, int], add: bool = False, made: int | None = None,
    ) -> Product:  # fmt: skip
        dtype = self.logits.dtype
        scratch = Buffer(WORKSPACE, self.scratch)
        return Product(a, b, c, sizes, transposed, leads, (dtype, made or dtype), add, scratch, _SCRATCH)

    def _logits_of(self, rows: int, x: Buffer, logits: Buffer, first: int, end: int) -> Product:
        weight, lead, columns = self._weight(1, first, self.itemsize)
        to = Buffer(WORKSPACE, logits.offset + first * self.itemsize)
        sizes, leads = (end - first, rows, self.width), (lead, self.width, self.stride)
        return self._product(weight, x, to, sizes, (not columns, False), leads)

    def _dx(self, rows: int, dx: Buffer, logits: Buffer, first: int, end: int, add: bool) -> Product:
        weight, lead, columns = self._weight(1, first, self.itemsize)
        slope = Buffer(WORKSPACE, logits.offset + first * self.itemsize)
        sizes, leads = (self.width, rows, end - first), (lead, self.stride, self.width)
        return self._product(weight, slope, dx, sizes, (columns, False), leads, add)

    def _dweight(self, rows: int, x: Buffer, logits: Buffer, first: int, end: int, add: bool) -> Product:
        dw, lead, columns = self._weight(6, first, 4)
        slope = Buffer(WORKSPACE, logits.offset + first * self.itemsize)
        count, made = end - first, TensorProto.FLOAT
        if columns:
            sizes, leads = (count, self.width, rows), (self.stride, self.width, lead)
            return self._product(slope, x, dw, sizes, (False, True), leads, add, made)
        sizes, leads = (self.width, count, rows), (self.width, self.stride, lead)
        return self._product(x, slope, dw, sizes, (False, True), leads, add, made)


def _variants(call: Call) -> Variants | None:
    rows = call.inputs[0].shape[0]
    if not all(t.size for t in call.inputs):
        return None
    counts = [count for count in CHUNKS if count == 1 or rows >= count * _LEAST_ROWS]
    return Variants({f"chunks_{count}": _Chunks(call, count).kernel() for count in counts})


LINEAR_CROSS_ENTROPY = register(
    Operator(
        "LinearCrossEntropy",
        ("x", "weight", "labels", "share"),
        ("loss", "dx", "dweight"),
        _types,
        _meaning,
        _ATTRIBUTES,
        cuda=_variants,
        products=_products,
    )
)

__all__ = ["CHUNKS", "LINEAR_CROSS_ENTROPY"]
