"""Cross-entropy over many classes, from logits of any float type without a float32 copy of them: one pass forward, one
backward.

Logits [N, K], labels [N] (int64). Forward gives the loss of every row, and its largest logit m with the logarithm of the
sum of exp(x - m), both float32; the gradient needs the logits, which it may overwrite, and these two. A row whose label is
`ignored` counts for nothing. With `smoothing` e a label stands for 1 - e of itself and e spread evenly over all classes
(Szegedy et al., 2016).
"""

from collections.abc import Mapping, Sequence
from functools import partial

from onnx import TensorProto

from planc.kernels.body import Body
from planc.kernels.device import Buffer, Launch, SourceKernel
from planc.kernels.operator import Attribute, Call, Operator, TensorType, register
from planc.kernels.source import C_TYPES, VECTOR_BYTES, source_of

IGNORED = -100
"""The label that counts for nothing where a model names none, as in torch."""

_ATTRIBUTES: Mapping[str, Attribute] = {"ignored": IGNORED, "smoothing": 0.0}

_MOST_THREADS = 512


def _rows(call: Call) -> TensorType:
    """The type of a float32 number a row; checks logits and labels."""
    logits, labels = call.inputs[:2]
    if len(logits.shape) != 2 or logits.dtype not in C_TYPES or labels != (TensorProto.INT64, logits.shape[:1]):
        raise call.refuse("float32, float16 or bfloat16 logits [N, K] and int64 labels [N]")
    return TensorType(TensorProto.FLOAT, logits.shape[:1])


# --- meaning


def _forward_types(call: Call) -> tuple[TensorType, ...]:
    rows = _rows(call)
    return rows, rows._replace(shape=(*rows.shape, 2))


def _column(body: Body, rows: str) -> str:
    return body.reshape(rows, [-1, 1])


def counted_labels(body: Body, labels: str, ignored: int) -> tuple[str, str]:
    """Whether each label counts, and the labels as a column, ignored ones 0."""
    counts = body.op("Not", body.op("Equal", labels, body.number(ignored, TensorProto.INT64)))
    return counts, _column(body, body.op("Where", counts, labels, body.number(0, TensorProto.INT64)))


def _forward(call: Call, body: Body) -> Sequence[str]:
    """loss = log sum exp(x - m) - (1 - e) (x_label - m) - e (mean x - m), m the largest of the row."""
    x, smoothing = body.wide(body.inputs[0], call.inputs[0].dtype), call.real("smoothing")
    counts, index = counted_labels(body, body.inputs[1], call.whole("ignored"))
    most = body.op("ReduceMax", x, body.ints(1), keepdims=1)
    shift = body.op("Log", body.sum(body.op("Exp", body.op("Sub", x, most)), [1]))
    at_label = body.op("Sub", body.op("GatherElements", x, index, axis=1), most)
    loss = body.op("Sub", shift, body.op("Mul", at_label, body.number(1 - smoothing)))
    if smoothing:
        average = body.op("Sub", body.mean(x, [1]), most)
        loss = body.op("Sub", loss, body.op("Mul", average, body.number(smoothing)))
    kept = body.op("Where", _column(body, counts), loss, body.number(0.0))
    return [body.reshape(kept, [-1]), body.op("Concat", most, shift, axis=1)]


def _gradient_types(call: Call) -> tuple[TensorType, ...]:
    (_, statistics), (given, share) = _forward_types(call), call.inputs[2:]
    if given != statistics or share not in (_rows(call), (TensorProto.FLOAT, ())):
        raise call.refuse("float32 statistics [N, 2] and a float32 share of each row or of all")
    return (call.inputs[0],)


def _gradient(call: Call, body: Body) -> Sequence[str]:
    """share (exp(x - m - log sum) - e / K - (1 - e) at the label), 0 where the label is ignored."""
    logits, share, smoothing = call.inputs[0], call.inputs[3], call.real("smoothing")
    counts, index = counted_labels(body, body.inputs[1], call.whole("ignored"))
    most, shift = (body.slice(body.inputs[2], 1, k, k + 1) for k in range(2))
    centred = body.op("Sub", body.wide(body.inputs[0], logits.dtype), most)
    slope = body.op("Exp", body.op("Sub", centred, shift))
    if smoothing:
        slope = body.op("Sub", slope, body.number(smoothing / max(1, logits.shape[1])))
    minus = body.op("Expand", body.number(smoothing - 1), body.ints(logits.shape[0], 1))
    slope = body.op("ScatterElements", slope, index, minus, axis=1, reduction="add")
    slope = body.op("Mul", slope, _column(body, body.inputs[3]) if share.shape else body.inputs[3])
    return [body.narrow(body.op("Where", _column(body, counts), slope, body.number(0.0)), logits.dtype)]


# --- kernels for a card


def row_constants(call: Call, logits: TensorType, stride: int, one_share: bool, wide: bool) -> dict[str, int | float]:
    """The constants of this file's kernels on logits whose rows are `stride` elements apart."""
    width, smoothing = VECTOR_BYTES // (logits.nbytes // logits.size), call.real("smoothing")
    return {
        "K": logits.shape[1], "STRIDE": stride, "W": width, "WIDE": wide, "THREADS": row_threads(logits),
        "IGNORED": call.whole("ignored"), "SMOOTH": smoothing != 0, "SMOOTHING": smoothing, "ONE_SHARE": one_share,
    }  # fmt: skip


def row_threads(logits: TensorType) -> int:
    """Threads of a row: a power of two of warps, as many as there are vectors, up to a limit."""
    threads, width = 32, VECTOR_BYTES // (logits.nbytes // logits.size)
    while threads < _MOST_THREADS and threads * width < logits.shape[1]:
        threads *= 2
    return threads


def _kernel(call: Call, file: str, function: str, wide: bool = True) -> SourceKernel | None:
    """One launch, a block for each row. A matrix of any width is read in vectors, so `wide` only asks of addresses."""
    logits, operands = call.inputs[0], len(call.inputs) + len(call.outputs)
    if not logits.size:
        return None
    constants = row_constants(call, logits, logits.shape[1], len(call.inputs) > 3 and not call.inputs[3].shape, wide)
    written = frozenset(range(len(call.inputs), operands))
    arguments, threads = tuple(map(Buffer, range(operands))), row_threads(logits)
    launch = Launch(f"PREFIX_{function}", (logits.shape[0], 1, 1), threads, arguments, written)
    narrow = _kernel(call, file, function, wide=False) if wide else None
    return SourceKernel(
        source_of(constants, logits.dtype, "rows.cuh", file), (launch,), alignment=VECTOR_BYTES, narrow=narrow
    )


CROSS_ENTROPY = register(
    Operator(
        "CrossEntropy",
        ("logits", "labels"),
        ("loss", "statistics"),
        _forward_types,
        _forward,
        _ATTRIBUTES,
        saved=frozenset({"statistics"}),
        cuda=partial(_kernel, file="cross_entropy.cu", function="forward"),
    )
)

CROSS_ENTROPY_GRADIENT = register(
    Operator(
        "CrossEntropyGradient",
        ("logits", "labels", "statistics", "share"),
        ("dlogits",),
        _gradient_types,
        _gradient,
        _ATTRIBUTES,
        cuda=partial(_kernel, file="cross_entropy_gradient.cu", function="gradient"),
        in_place=(0,),
    )
)
"""`share` is the gradient of each row's loss, float32 [N], or of every row's, shape ()."""

__all__ = ["CROSS_ENTROPY", "CROSS_ENTROPY_GRADIENT", "IGNORED"]
