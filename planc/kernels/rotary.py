"""Rotary embeddings (Su et al., RoFormer, 2021): places turn pairs of elements of a head, half a head apart.

    y = x cos + turned(x) sin,    turned(x) = [-x's second half, x's first half]

x [..., D], cos and sin float32 of its rank or less, broadcast to x, with all D columns. With `inverse` the transposed map,
which is the gradient: dx = dy cos + [(dy sin)'s second half, -(dy sin)'s first half].
"""

from collections.abc import Sequence

from onnx import TensorProto

from planc.kernels.body import Body
from planc.kernels.device import Buffer, Launch, SourceKernel
from planc.kernels.operator import Call, Operator, TensorType, register
from planc.kernels.source import C_TYPES, VECTOR_BYTES, source_of, width_of

_THREADS = 256
_WIDEST = 4
"""Itemsize that vectors are cut by: angles are float32."""


def _types(call: Call) -> tuple[TensorType, ...]:
    x, cosine, sine = call.inputs
    made = call.whole("to") or x.dtype
    if x.dtype not in C_TYPES or made not in C_TYPES or not x.shape or x.shape[-1] % 2:
        raise call.refuse("x [..., D] of a float type up to 32 bits with D even, and such a result")
    stretched = all(a in (1, b) for a, b in zip(_padded(cosine, x), x.shape, strict=False))
    if cosine != sine or cosine.dtype != TensorProto.FLOAT or len(cosine.shape) > len(x.shape) or not stretched:
        raise call.refuse(f"float32 angles of one shape that broadcast to {list(x.shape)}")
    if cosine.shape[-1:] != x.shape[-1:]:
        raise call.refuse(f"angles of {x.shape[-1]} columns")
    return (TensorType(made, x.shape),)


def _padded(angles: TensorType, x: TensorType) -> tuple[int, ...]:
    """The shape of the angles in the rank of x."""
    return (1,) * (len(x.shape) - len(angles.shape)) + angles.shape


def _meaning(call: Call, body: Body) -> Sequence[str]:
    x, axis = call.inputs[0], len(call.inputs[0].shape) - 1
    size, half = x.shape[axis], x.shape[axis] // 2
    wide = body.wide(body.inputs[0], x.dtype)
    turning = body.op("Mul", wide, body.inputs[2]) if call.whole("inverse") else wide
    low, high = body.slice(turning, axis, 0, half), body.slice(turning, axis, half, size)
    if call.whole("inverse"):
        turned = body.op("Concat", high, body.op("Neg", low), axis=axis)
    else:
        turned = body.op("Mul", body.op("Concat", body.op("Neg", high), low, axis=axis), body.inputs[2])
    y = body.op("Add", body.op("Mul", wide, body.inputs[1]), turned)
    return [body.narrow(y, call.outputs[0].dtype)]


def _angles(call: Call) -> tuple[int, int] | None:
    """(rows of angles n, rows of x below m), so that row r of x has the angles r / m % n; None where no such are."""
    x, cosine = call.inputs[:2]
    sizes, padded = x.shape[:-1], _padded(cosine, x)[:-1]
    held = [axis for axis, size in enumerate(padded) if size > 1]
    if not held:
        return 1, 1
    first, last = held[0], held[-1]
    if padded[first : last + 1] != sizes[first : last + 1]:
        return None
    count, below = 1, 1
    for axis, size in enumerate(sizes):
        count *= size if first <= axis <= last else 1
        below *= size if axis > last else 1
    return count, below


def _kernel(call: Call, wide: bool = True) -> SourceKernel | None:
    x, angles = call.inputs[0], _angles(call)
    if not x.size or angles is None:
        return None
    half, (count, below) = x.shape[-1] // 2, angles
    width = width_of(_WIDEST, half)
    constants = {
        "PAIRS": x.size // 2, "HALF": half, "W": width, "ANGLES": count, "BELOW": below, "WIDE": wide,
        "INVERSE": bool(call.whole("inverse")),
    }  # fmt: skip
    grid = (-(-x.size // (2 * width * _THREADS)), 1, 1)
    launch = Launch("PREFIX_rotate", grid, _THREADS, tuple(map(Buffer, range(4))), frozenset({3}))
    source = source_of(constants, x.dtype, "rotary.cu", types={"U": call.outputs[0].dtype})
    narrow = _kernel(call, wide=False) if wide else None
    return SourceKernel(source, (launch,), alignment=VECTOR_BYTES, narrow=narrow)


ROTARY = register(
    Operator(
        "Rotary", ("x", "cos", "sin"), ("y",), _types, _meaning, {"inverse": 0, "to": 0}, cuda=_kernel, in_place=(0,)
    )
)
"""`to` is the ONNX element type of y, that of x where it is 0."""

__all__ = ["ROTARY"]
