"""Scaled dot-product attention without its matrix of probabilities (Dao et al., FlashAttention, 2022).

    Y = softmax(scale Q K' + bias, causal mask) V

Q [B, H, S, D], K and V [B, G, T, D], Y [B, H, S, D], H a multiple of G (Ainslie et al., grouped-query attention, 2023);
with `heads_last` [B, S, H, D] and so on. `bias` broadcasts to [B, H, S, T]; with `causal` a query sees the keys up to its
own place. Kept for the gradient: all of these, and the logarithm of the sum of exponentials of each row, [B, H, S] in
float32; of a row whose keys are all hidden by finite numbers, beside which their number would be lost, 1e30 times one more
than the logarithm of that number. On a card cuDNN computes bfloat16 and float16, its gradient by the form that repeats its
bits; float32 has kernels of planc's own, whose products are in TF32.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from onnx import TensorProto

from planc.kernels.body import Body
from planc.kernels.device import (
    WORKSPACE,
    AttentionKernel,
    Buffer,
    CudnnKernel,
    CudnnTensor,
    Launch,
    SourceKernel,
    Strided,
)
from planc.kernels.operator import Attribute, Call, Operator, TensorType, register
from planc.kernels.source import C_TYPES, VECTOR_BYTES, source_of

_ATTRIBUTES: Mapping[str, Attribute] = {"scale": 1.0, "causal": 0, "heads_last": 0}
_SWAP = (0, 2, 1, 3)
_TILE, _THREADS, _PAD = 64, 128, 4
_WIDEST = 128
"""Elements of a head that the kernels hold in registers and shared memory."""

HIDDEN = -1e4
"""A bias at or below hides a key: the exponential of scores so far apart is zero in float32."""

LOWEST = -1e36
"""A bias at or below in a whole row: the float32 kernels know that it hides all keys, and count them alike."""


_FAR = 1e30
"""The distance of scores hidden by finite numbers from any other."""


def has_kernels_for(width: int) -> bool:
    """Whether the kernels take heads of so many elements."""
    return width % 8 == 0 and 0 < width <= _WIDEST


def is_causal(bias: np.ndarray[Any, Any], places: tuple[int, ...]) -> bool:
    """Whether a constant bias is a causal mask of scores with these last two axes [S, T], the same in all before."""
    if bias.shape[-2:] != places or bias.size != math.prod(places):
        return False
    matrix, above = np.asarray(bias, np.float32).reshape(places), np.triu(np.ones(places, bool), 1)
    return bool((matrix[~above] == 0).all() and (matrix[above] <= HIDDEN).all())


@dataclass(frozen=True)
class _Heads:
    """The sizes of a call."""

    call: Call
    q: TensorType
    k: TensorType
    v: TensorType
    bias: TensorType | None

    def __post_init__(self) -> None:
        q, k, v = (self.planar(t.shape) for t in (self.q, self.k, self.v))
        types = {t.dtype for t in (self.q, self.k, self.v)}
        fitting = q[0] == k[0] and k == v and q[3] == k[3] and min(*q, *k) > 0 and q[1] % k[1] == 0
        if not fitting or len(types) > 1 or self.q.dtype not in C_TYPES:
            raise self.call.refuse("Q [B, H, S, D], K and V [B, G, T, D] of one float type, H a multiple of G")
        if self.bias is not None:
            full = (*q[:3], k[2])
            shape = (1,) * (4 - len(self.bias.shape)) + self.bias.shape
            stretched = len(shape) == 4 and all(a in (1, b) for a, b in zip(shape, full, strict=True))
            if not stretched or self.bias.dtype != self.q.dtype:
                raise self.call.refuse(f"a bias of the type of Q that broadcasts to {list(full)}")

    def planar(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """[B, H, S, D] of what lies in memory."""
        if len(shape) != 4:
            raise self.call.refuse("tensors of four axes")
        return tuple(shape[i] for i in _SWAP) if self.call.whole("heads_last") else shape

    def strides(self, type_: TensorType) -> tuple[int, ...]:
        """Of [B, H, S, D], in elements."""
        stored = [math.prod(type_.shape[i + 1 :]) for i in range(4)]
        return tuple(stored[i] for i in _SWAP) if self.call.whole("heads_last") else tuple(stored)

    @property
    def sizes(self) -> dict[str, int]:
        """B, H, G, S, T, D."""
        q, k = self.planar(self.q.shape), self.planar(self.k.shape)
        return {"B": q[0], "H": q[1], "G": k[1], "S": q[2], "T": k[2], "D": q[3]}

    def bias_strides(self) -> tuple[int, ...]:
        """Of the bias broadcast to [B, H, S, T], in elements; zero along axes that it is stretched along."""
        shape = self.bias.shape if self.bias else ()
        padded = (1,) * (4 - len(shape)) + shape
        return tuple(math.prod(padded[i + 1 :]) if padded[i] > 1 else 0 for i in range(4))


def _forward_heads(call: Call) -> _Heads:
    q, k, v, *bias = call.inputs
    return _Heads(call, q, k, v, bias[0] if bias else None)


def _gradient_heads(call: Call) -> _Heads:
    dy, q, k, v, y, stats, *bias = call.inputs
    heads = _Heads(call, q, k, v, bias[0] if bias else None)
    sizes = heads.sizes
    if dy != q or y != q or stats != TensorType(TensorProto.FLOAT, (sizes["B"], sizes["H"], sizes["S"])):
        raise call.refuse("dy and y of the type of the queries, and float32 statistics [B, H, S]")
    return heads


# --- meaning


def _read(call: Call, body: Body, name: str, dtype: int) -> str:
    wide = body.wide(name, dtype)
    return body.transpose(wide, _SWAP) if call.whole("heads_last") else wide


def _written(call: Call, body: Body, name: str, dtype: int) -> str:
    turned = body.transpose(name, _SWAP) if call.whole("heads_last") else name
    return body.narrow(turned, dtype)


def _repeated(body: Body, a: str, heads: _Heads) -> str:
    """Keys or values [B, G, T, D], one for each head of queries."""
    s = heads.sizes
    if s["G"] == s["H"]:
        return a
    split = body.reshape(a, (s["B"], s["G"], 1, s["T"], s["D"]))
    wide = body.op("Expand", split, body.ints(s["B"], s["G"], s["H"] // s["G"], s["T"], s["D"]))
    return body.reshape(wide, (s["B"], s["H"], s["T"], s["D"]))


def _summed(body: Body, a: str, heads: _Heads) -> str:
    """A gradient [B, H, T, D] of repeated heads, summed over the repetitions."""
    s = heads.sizes
    if s["G"] == s["H"]:
        return a
    split = body.reshape(a, (s["B"], s["G"], s["H"] // s["G"], s["T"], s["D"]))
    return body.sum(split, [2], keepdims=False)


def _scores(heads: _Heads, body: Body, q: str, k: str, bias: str | None) -> str:
    call, s = heads.call, heads.sizes
    scaled = body.op("Mul", body.op("MatMul", q, body.transpose(k, (0, 1, 3, 2))), body.number(call.real("scale")))
    if bias is not None:
        scaled = body.op("Add", scaled, body.wide(bias, heads.q.dtype))
    if call.whole("causal"):
        hidden = body.constant(np.triu(np.ones((s["S"], s["T"]), bool), 1))
        scaled = body.op("Where", hidden, body.number(-math.inf), scaled)
    return scaled


def _forward_types(call: Call) -> tuple[TensorType, ...]:
    s = _forward_heads(call).sizes
    return call.inputs[0], TensorType(TensorProto.FLOAT, (s["B"], s["H"], s["S"]))


def _forward(call: Call, body: Body) -> Sequence[str]:
    heads, dtype = _forward_heads(call), call.inputs[0].dtype
    q, k, v = (_read(call, body, name, dtype) for name in body.inputs[:3])
    scores = _scores(heads, body, q, _repeated(body, k, heads), body.inputs[3] if len(body.inputs) > 3 else None)
    top = body.op("ReduceMax", scores, body.ints(3), keepdims=1)
    powers = body.op("Exp", body.op("Sub", scores, top))
    total = body.sum(powers, [3])
    y = body.op("MatMul", body.op("Div", powers, total), _repeated(body, v, heads))
    count = body.op("Log", total)
    apart = body.op("Mul", body.op("Add", count, body.number(1.0)), body.number(_FAR))
    hidden = body.op("Less", top, body.number(-_FAR))
    stats = body.op("Where", hidden, apart, body.op("Add", top, count))
    s = heads.sizes
    return [_written(call, body, y, dtype), body.reshape(stats, (s["B"], s["H"], s["S"]))]


def _gradient_types(call: Call) -> tuple[TensorType, ...]:
    _gradient_heads(call)
    return call.inputs[1:4]


def _gradient(call: Call, body: Body) -> Sequence[str]:
    """dV = P' dY, dS = P (dY V' - sum(dY Y)), dQ = scale dS K, dK = scale dS' Q."""
    heads, dtype, s = _gradient_heads(call), call.inputs[1].dtype, _gradient_heads(call).sizes
    dy, q, k, v, y = (_read(call, body, name, dtype) for name in body.inputs[:5])
    keys, values = (_repeated(body, a, heads) for a in (k, v))
    scores = _scores(heads, body, q, keys, body.inputs[6] if len(body.inputs) > 6 else None)
    stats = body.reshape(body.inputs[5], (s["B"], s["H"], s["S"], 1))
    hidden = body.op("Greater", stats, body.number(_FAR / 10))
    even = body.op("Exp", body.op("Sub", body.number(1.0), body.op("Div", stats, body.number(_FAR))))
    seen = body.op("Greater", scores, body.number(-math.inf))
    even = body.op("Where", seen, even, body.number(0.0))
    p = body.op("Where", hidden, even, body.op("Exp", body.op("Sub", scores, stats)))
    inner = body.sum(body.op("Mul", dy, y), [3])
    slope = body.op("Sub", body.op("MatMul", dy, body.transpose(values, (0, 1, 3, 2))), inner)
    ds = body.op("Mul", body.op("Mul", p, slope), body.number(call.real("scale")))
    dq = body.op("MatMul", ds, keys)
    dk = body.op("MatMul", body.transpose(ds, (0, 1, 3, 2)), q)
    dv = body.op("MatMul", body.transpose(p, (0, 1, 3, 2)), dy)
    found = (dq, _summed(body, dk, heads), _summed(body, dv, heads))
    return [_written(call, body, a, dtype) for a in found]


def _products(made: int, call: Call) -> int:
    """Of so many products over pairs of a query and a key: half of them lie under a causal mask."""
    heads = _forward_heads(call) if call.operator.name == "Attention" else _gradient_heads(call)
    s = heads.sizes
    return made * s["B"] * s["H"] * s["S"] * s["T"] * s["D"] // (2 if call.whole("causal") else 1)


# --- cuDNN


def _cudnn_tensors(heads: _Heads, named: Mapping[str, TensorType]) -> list[CudnnTensor]:
    found = []
    for name, type_ in named.items():
        if name == "stats":
            b, h, s = type_.shape
            found.append(CudnnTensor(name, (b, h, s, 1), (h * s, s, 1, 1), type_.dtype))
        elif name == "bias":
            shape = (1,) * (4 - len(type_.shape)) + type_.shape
            strides = tuple(math.prod(shape[i + 1 :]) for i in range(4))
            found.append(CudnnTensor(name, shape, strides, type_.dtype))
        else:
            found.append(CudnnTensor(name, heads.planar(type_.shape), heads.strides(type_), type_.dtype))
    return found


def _build_forward(settings: Mapping[str, Any], graph: Any, tensors: Sequence[Any]) -> Sequence[Any]:
    bias = {"bias": tensors[3]} if len(tensors) > 3 else {}
    return list(graph.sdpa(q=tensors[0], k=tensors[1], v=tensors[2], generate_stats=True, **bias, **settings))


def _build_gradient(settings: Mapping[str, Any], graph: Any, tensors: Sequence[Any]) -> Sequence[Any]:
    dy, q, k, v, y, stats, *bias = tensors
    more = {"bias": bias[0]} if bias else {}
    return list(
        graph.sdpa_backward(
            q=q, k=k, v=v, o=y, dO=dy, stats=stats, use_deterministic_algorithm=True, **more, **settings
        )
    )


def _cudnn(call: Call, heads: _Heads) -> CudnnKernel | None:
    """cuDNN's attention: heads of up to 128 elements, a multiple of eight of them."""
    if not has_kernels_for(heads.sizes["D"]):
        return None
    settings = {"attn_scale": call.real("scale"), "use_causal_mask": bool(call.whole("causal")), "name": "attention"}
    names = (*call.operator.inputs[: len(call.inputs)], *call.operator.outputs)
    tensors = _cudnn_tensors(heads, dict(zip(names, (*call.inputs, *call.outputs), strict=True)))
    build = _build_forward if call.operator.name == "Attention" else _build_gradient
    n = len(call.inputs)
    return CudnnKernel(tuple(tensors[:n]), tuple(tensors[n:]), partial(build, settings), TensorProto.FLOAT)


# --- float32


def _constants(heads: _Heads, wide: bool) -> dict[str, int | float | bool]:
    call, s = heads.call, heads.sizes
    constants: dict[str, int | float | bool] = {
        "B": s["B"], "H": s["H"], "GROUP": s["H"] // s["G"], "SQ": s["S"], "SK": s["T"], "D": s["D"], "WIDE": wide,
        "CAUSAL": bool(call.whole("causal")), "BIASED": heads.bias is not None, "SCALE": call.real("scale"),
        "PART": 4 if s["D"] <= _TILE else 2,
    }  # fmt: skip
    for name, type_ in (("Q", heads.q), ("K", heads.k), ("V", heads.v), ("Y", heads.q)):
        batch, head, row, _ = heads.strides(type_)
        constants |= {f"{name}_BATCH": batch, f"{name}_HEAD": head, f"{name}_ROW": row}
    names = ("BATCH", "HEAD", "ROW", "COLUMN")
    return constants | {f"BIAS_{name}": n for name, n in zip(names, heads.bias_strides(), strict=True)}


def _fits(heads: _Heads) -> bool:
    s = heads.sizes
    return has_kernels_for(s["D"]) and max(s["B"], s["H"]) < 1 << 16


def _forward_kernel(call: Call) -> SourceKernel | CudnnKernel | None:
    heads = _forward_heads(call)
    if call.inputs[0].dtype != TensorProto.FLOAT:
        return _cudnn(call, heads)
    return _forward_source(call, heads, True) if _fits(heads) else None


def _forward_source(call: Call, heads: _Heads, wide: bool) -> SourceKernel:
    s, n = heads.sizes, len(call.inputs)
    arguments = (*(Buffer(i if i < n else 0) for i in range(4)), Buffer(n), Buffer(n + 1))
    grid = (-(-s["S"] // _TILE), s["H"], s["B"])
    shared = 3 * 4 * _TILE * (s["D"] + _PAD)
    launch = Launch("PREFIX_forward", grid, _THREADS, arguments, frozenset({4, 5}), shared=shared)
    source = source_of(_constants(heads, wide), TensorProto.FLOAT, "attention.cuh", "attention.cu")
    narrow = _forward_source(call, heads, False) if wide else None
    return SourceKernel(source, (launch,), contract=True, alignment=VECTOR_BYTES, narrow=narrow)


def _gradient_kernel(call: Call) -> SourceKernel | CudnnKernel | None:
    heads = _gradient_heads(call)
    if call.inputs[1].dtype != TensorProto.FLOAT:
        return _cudnn(call, heads)
    return _gradient_source(call, heads, True) if _fits(heads) else None


def _gradient_source(call: Call, heads: _Heads, wide: bool) -> SourceKernel:
    s, n = heads.sizes, len(call.inputs)
    dy, q, k, v, y, stats, bias = (Buffer(i if i < n else 1) for i in range(7))
    dq, dk, dv, delta = Buffer(n), Buffer(n + 1), Buffer(n + 2), Buffer(WORKSPACE)
    rows, shared = s["B"] * s["H"] * s["S"], 4 * 4 * _TILE * (s["D"] + _PAD)
    by_keys, by_queries = ((-(-s[x] // _TILE), s[h], s["B"]) for x, h in (("T", "G"), ("S", "H")))
    read = (dy, q, k, v, stats, bias, delta)
    launches = (
        Launch("PREFIX_sums", (-(-rows // 4), 1, 1), _THREADS, (dy, y, delta), frozenset({2})),
        Launch("PREFIX_keys", by_keys, _THREADS, (*read, dk, dv), frozenset({7, 8}), shared=shared),
        Launch("PREFIX_queries", by_queries, _THREADS, (*read, dq), frozenset({7}), shared=shared),
    )
    source = source_of(_constants(heads, wide), TensorProto.FLOAT, "attention.cuh", "attention_gradient.cu")
    narrow = _gradient_source(call, heads, False) if wide else None
    return SourceKernel(source, launches, 4 * rows, contract=True, alignment=VECTOR_BYTES, narrow=narrow)


# --- on the CPU


def row_statistics(top: np.ndarray[Any, Any], total: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What is kept for the gradient, from the largest score of each row and the sum of
    exponentials of scores less it."""
    count = np.log(total)
    found: np.ndarray[Any, Any] = np.where(top < -_FAR, (count + np.float32(1)) * np.float32(_FAR), top + count)
    return found


def computed_by_library(dtype: int, heads: int, groups: int) -> bool:
    """Whether a library of the CPU computes attention of this type and these numbers of heads."""
    return dtype == TensorProto.FLOAT and heads == groups


def _library(gradient: bool, call: Call) -> AttentionKernel | None:
    heads = _gradient_heads(call) if gradient else _forward_heads(call)
    s = heads.sizes
    if not computed_by_library(heads.q.dtype, s["H"], s["G"]):
        return None
    q, k = (Strided(heads.planar(t.shape), heads.strides(t), t.dtype) for t in (heads.q, heads.k))
    bias = None
    if heads.bias is not None:
        dims = (1,) * (4 - len(heads.bias.shape)) + heads.bias.shape
        bias = Strided.of(dims, heads.bias.dtype)
    return AttentionKernel(gradient, q, k, bias, call.real("scale"), bool(call.whole("causal")))


ATTENTION = register(
    Operator(
        "Attention",
        ("q", "k", "v", "bias"),
        ("y", "stats"),
        _forward_types,
        _forward,
        _ATTRIBUTES,
        optional=1,
        saved=frozenset({"stats"}),
        cuda=_forward_kernel,
        cpu=partial(_library, False),
        products=partial(_products, 2),
    )
)

ATTENTION_GRADIENT = register(
    Operator(
        "AttentionGradient",
        ("dy", "q", "k", "v", "y", "stats", "bias"),
        ("dq", "dk", "dv"),
        _gradient_types,
        _gradient,
        _ATTRIBUTES,
        optional=1,
        cuda=_gradient_kernel,
        cpu=partial(_library, True),
        products=partial(_products, 7),
    )
)
"""The bias has no gradient."""
