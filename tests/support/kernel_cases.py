"""Calls of every operator of planc's own that has CUDA source: small ones, for tests that hold for all kernels."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from onnx import TensorProto

from planc.kernels import OPERATORS, Call, TensorType
from planc.kernels.device import SourceKernel, Variants

FLOAT, HALF, BRAIN = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16
ELEMENTS = (FLOAT, HALF, BRAIN)
_LABELS, _KEY = TensorProto.INT64, TensorType(TensorProto.INT64, (2,))


def _floats(*shapes: Sequence[int], dtype: int = FLOAT) -> list[TensorType]:
    return [TensorType(dtype, tuple(shape)) for shape in shapes]


def _norm(x: tuple[int, ...], channels: int, dtype: int) -> tuple[list[TensorType], list[TensorType]]:
    """x and float32 vectors of its channels."""
    return _floats(x, dtype=dtype), _floats(*[(channels,)] * 4)


def _cross_entropy(dtype: int) -> Iterator[tuple[str, list[TensorType], Mapping[str, Any]]]:
    logits, labels = TensorType(dtype, (5, 37)), TensorType(_LABELS, (5,))
    for share, smoothing in (((), 0.0), ((5,), 0.1)):
        yield "CrossEntropy", [logits, labels], {"smoothing": smoothing}
        more = _floats((5, 2), share)
        yield "CrossEntropyGradient", [logits, labels, *more], {"smoothing": smoothing}
        x, weight = _floats((256, 24), (24, 37), dtype=dtype)
        rows = TensorType(_LABELS, (256,))
        shares = _floats((256,) if share else ())
        yield "LinearCrossEntropy", [x, weight, rows, *shares], {"smoothing": smoothing, "columns": 1}


def _layer_norms(dtype: int) -> Iterator[tuple[str, list[TensorType], Mapping[str, Any]]]:
    for columns in (24, 1030):
        x, scale, bias = _floats((7, columns), (columns,), (columns,), dtype=dtype)
        yield "LayerNorm", [x, scale, bias], {}
        yield "LayerNorm", [x, scale], {"centred": 0, "to": BRAIN}
        yield "LayerNormGradient", [x, x, scale, *_floats((7, 2)), x], {}
        yield "LayerNormGradient", [x, x, scale, *_floats((7, 1))], {"centred": 0}


def _channel_norms(dtype: int) -> Iterator[tuple[str, list[TensorType], Mapping[str, Any]]]:
    (x,), vectors = _norm((3, 5, 4, 16), 16, dtype)
    last = {"channels_last": 1}
    yield "BatchNorm", [x, *vectors[:2]], last
    yield "BatchNorm", [x, *vectors[:2], x], {**last, "relu": 1}
    yield "BatchNormGradient", [x, x, *vectors], last
    yield "BatchNormGradient", [x, x, *vectors, x], {**last, "relu": 1}
    image, scale, bias = _floats((2, 6, 9, 7), (6,), (6,), dtype=dtype)
    yield "GroupNorm", [image, scale, bias], {"groups": 2}
    yield "GroupNormGradient", [image, image, scale, *_floats((4, 2))], {"groups": 2}


def _pools(dtype: int) -> Iterator[tuple[str, list[TensorType], Mapping[str, Any]]]:
    (x, y), (position,) = (
        _floats((2, 7, 6, 8), (2, 4, 5, 8), dtype=dtype),
        [TensorType(TensorProto.UINT8, (2, 4, 5, 8))],
    )
    window = {"kernel": (3, 2), "strides": (2, 1), "pads": (1, 0, 1, 0), "channels_last": 1}
    maximum, average = {**window, "dilations": (1, 1)}, {**window, "padded": 0}
    yield "MaxPool", [x], {**maximum, "size": (4, 5)}
    yield "MaxPoolGradient", [y, position], {**maximum, "size": (7, 6)}
    yield "AveragePool", [x], {**average, "size": (4, 5)}
    yield "AveragePoolGradient", [y], {**average, "size": (7, 6)}


def _others(dtype: int) -> Iterator[tuple[str, list[TensorType], Mapping[str, Any]]]:
    matrix, ids = TensorType(dtype, (70, 24)), TensorType(TensorProto.INT64, (70,))
    yield "RowSum", [matrix], {"squares": 1}
    yield "Dropout", [matrix, _KEY], {"ratio": 0.25, "stream": 3}
    (x,), angles = _floats((2, 5, 3, 8), dtype=dtype), _floats((5, 1, 8), (5, 1, 8))
    for inverse in (0, 1):
        yield "Rotary", [x, *angles], {"inverse": inverse, "to": BRAIN * inverse}
    yield "EmbeddingGradient", [ids, matrix], {"count": 9}
    yield "EmbeddingGradient", [ids, matrix, *_floats((9, 24))], {"count": 9}


def _attentions(dtype: int) -> Iterator[tuple[str, list[TensorType], Mapping[str, Any]]]:
    for size, causal, biased in ((16, 0, True), (64, 1, False)):
        q, k, bias = _floats((2, 4, 70, size), (2, 2, 65, size), (70, 65), dtype=dtype)
        given, more = {"scale": 0.25, "causal": causal}, [bias] * biased
        yield "Attention", [q, k, k, *more], given
        yield "AttentionGradient", [q, q, k, k, q, *_floats((2, 4, 70)), *more], given


def cases(dtype: int) -> list[Call]:
    """The calls whose main operands are of an element type."""
    families = (_cross_entropy, _layer_norms, _channel_norms, _pools, _others, _attentions)
    found = (case for family in families for case in family(dtype))
    return [OPERATORS[name].call(inputs, **given) for name, inputs, given in found]


def source_kernels(call: Call) -> list[SourceKernel]:
    """The kernels of a call that are CUDA source, those of all its variants."""
    kernel = call.operator.cuda(call) if call.operator.cuda else None
    kernels = list(kernel.kernels.values()) if isinstance(kernel, Variants) else [kernel]
    return [k for k in kernels if isinstance(k, SourceKernel)]


def _ones(dtype: int) -> Iterator[tuple[str, list[TensorType], Mapping[str, Any]]]:
    """Every size is 1, but that of a pair of halves."""
    (one, vector), (row,), label = _floats((1, 1), (1,), dtype=dtype), _floats((1, 2)), TensorType(_LABELS, (1,))
    last, (pixel,), (number,) = {"channels_last": 1}, _floats((1, 1, 1), dtype=dtype), _floats((1,))
    yield "CrossEntropy", [one, label], {}
    yield "CrossEntropyGradient", [one, label, row, *_floats(())], {}
    yield "LayerNorm", [one, vector, vector], {}
    yield "LayerNormGradient", [one, one, vector, row], {}
    yield "BatchNorm", [pixel, number, number], last
    yield "BatchNormGradient", [pixel, pixel, *[number] * 4], last
    yield "GroupNorm", [pixel, vector, vector], {}
    yield "GroupNormGradient", [pixel, pixel, vector, row], {}
    yield "RowSum", [one], {}
    yield "Dropout", [one, _KEY], {"ratio": 0.0}
    yield "EmbeddingGradient", [label, one], {"count": 1}
    yield "Rotary", _floats((1, 2), dtype=dtype) + _floats((1, 2), (1, 2)), {}


def single_cases(dtype: int) -> list[Call]:
    """Calls of the same operators on as few elements as there can be."""
    return [OPERATORS[name].call(inputs, **given) for name, inputs, given in _ones(dtype)]
