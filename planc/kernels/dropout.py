"""Dropout (Srivastava et al., 2014) whose mask is a function of seed, step and place, so that nobody keeps it.

The numbers are those of Philox4x32-10 (Salmon et al., Parallel random numbers: as easy as 1, 2, 3, 2011): element i of a
tensor takes word i % 4 of the counter (i / 4, step, stream) under the key `seed`, and is dropped where that word is below
ratio 2^32. The same operator on the gradient, with the same stream, is the gradient's: forward, backward and every
recomputation and replay draw the same mask, and a later step another one.
"""

from collections.abc import Sequence

import numpy as np
from onnx import TensorProto

from planc.kernels.body import Body
from planc.kernels.device import Buffer, Launch, SourceKernel
from planc.kernels.operator import Call, Operator, TensorType, register
from planc.kernels.source import C_TYPES, VECTOR_BYTES, source_of

_THREADS = 256
_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_WORD = (1 << 32) - 1

KEY = TensorType(TensorProto.INT64, (2,))
"""Seed and step."""


def _types(call: Call) -> tuple[TensorType, ...]:
    x, key = call.inputs
    if x.dtype not in C_TYPES or key != KEY:
        raise call.refuse("a float32, float16 or bfloat16 tensor and an int64 key [2] of seed and step")
    if not 0 <= call.real("ratio") < 1 or not 0 <= call.whole("stream") <= _WORD:
        raise call.refuse("a ratio in [0, 1) and a stream of 32 bits")
    return (x,)


def _threshold(call: Call) -> int:
    """Words below it drop their element."""
    return min(_WORD, round(call.real("ratio") * (1 << 32)))


def _scale(call: Call) -> float:
    """What kept elements are multiplied with, rounded to float32."""
    return float(np.float32(1 / (1 - call.real("ratio"))))


# --- meaning: words are int64 numbers in [0, 2^32)


def _low(body: Body, a: str) -> str:
    """The low 32 bits."""
    return body.op("BitwiseAnd", a, body.number(_WORD, TensorProto.INT64))


def _high(body: Body, a: str) -> str:
    """The high 32 bits of 64, as a word."""
    bits = body.op("Cast", a, to=TensorProto.UINT64)
    moved = body.op("BitShift", bits, body.number(32, TensorProto.UINT64), direction="RIGHT")
    return body.op("Cast", moved, to=TensorProto.INT64)


def _round(body: Body, c: Sequence[str], key: Sequence[str]) -> list[str]:
    products = [
        body.op("Mul", c[at], body.number(by, TensorProto.INT64)) for at, by in zip((0, 2), _MULTIPLIERS, strict=True)
    ]
    mixed = [
        body.op("BitwiseXor", body.op("BitwiseXor", _high(body, products[1 - k]), c[2 * k + 1]), key[k])
        for k in range(2)
    ]
    return [mixed[0], _low(body, products[1]), mixed[1], _low(body, products[0])]


def philox_words(body: Body, count: int, key: str, stream: int) -> str:
    """`count` words in the order of places, [count]."""
    seed, step = (body.slice(key, 0, k, k + 1) for k in range(2))
    places = body.constant(np.arange(-(-count // 4), dtype=np.int64)) if count <= _LISTED else _range(body, count)
    shape = body.op("Shape", places)
    counter = [_low(body, places), _high(body, places)]
    counter.append(body.op("Expand", _low(body, step), shape))
    counter.append(body.op("Expand", body.ints(stream), shape))
    keys = [_low(body, seed), _high(body, seed)]
    for turn in range(_ROUNDS):
        counter = _round(body, counter, keys)
        if turn + 1 < _ROUNDS:
            keys = [
                _low(body, body.op("Add", k, body.number(w, TensorProto.INT64)))
                for k, w in zip(keys, _WEYL, strict=True)
            ]
    columns = [body.reshape(word, [-1, 1]) for word in counter]
    words = body.reshape(body.op("Concat", *columns, axis=1), [-1])
    return body.slice(words, 0, 0, count)


_LISTED = 64
"""Words up to which the places are written out."""


def _range(body: Body, count: int) -> str:
    bounds = (body.number(n, TensorProto.INT64) for n in (0, -(-count // 4), 1))
    return body.op("Range", *bounds)


def _meaning(call: Call, body: Body) -> Sequence[str]:
    x = call.inputs[0]
    words = body.reshape(philox_words(body, x.size, body.inputs[1], call.whole("stream")), x.shape)
    # Not GreaterOrEqual, which ONNX Runtime lacks for int64: w >= t is not (w < t).
    kept = body.op("Not", body.op("Less", words, body.number(_threshold(call), TensorProto.INT64)))
    scaled = body.op("Mul", body.wide(body.inputs[0], x.dtype), body.number(_scale(call)))
    return [body.narrow(body.op("Where", kept, scaled, body.number(0.0)), x.dtype)]


# --- kernel


def _kernel(call: Call, wide: bool = True) -> SourceKernel | None:
    x = call.inputs[0]
    if not x.size:
        return None
    width = VECTOR_BYTES // (x.nbytes // x.size)
    constants = {
        "N": x.size, "W": width, "WIDE": wide, "THRESHOLD": _threshold(call), "STREAM": call.whole("stream"),
        "SCALE": _scale(call),
    }  # fmt: skip
    grid = (-(-x.size // (width * _THREADS)), 1, 1)
    launch = Launch("PREFIX_dropout", grid, _THREADS, (Buffer(0), Buffer(1), Buffer(2)), frozenset({2}))
    narrow = _kernel(call, wide=False) if wide else None
    source = source_of(constants, x.dtype, "dropout.cu")
    return SourceKernel(source, (launch,), alignment=VECTOR_BYTES, narrow=narrow)


DROPOUT = register(
    Operator(
        "Dropout", ("x", "key"), ("y",), _types, _meaning, {"ratio": 0.5, "stream": 0}, cuda=_kernel, in_place=(0,)
    )
)
"""y = x / (1 - ratio) where the element's word is not below ratio 2^32, else 0."""

__all__ = ["DROPOUT", "KEY", "philox_words"]
