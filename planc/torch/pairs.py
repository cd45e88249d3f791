"""Complex tensors as two real ones, and Fourier transforms as products with cosines and sines.

Operators that treat real and imaginary part alike run their real handler twice. Others are written out here.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
from onnx import helper

from planc.errors import ModelError
from planc.torch.tensors import Constant, Tensor, onnx_dtype
from planc.training.emit.builder import FLOATS, Shape, Var

aten = torch.ops.aten

LONGEST = 1 << 13
"""Points of a transform that is written as a product."""


@dataclass(frozen=True)
class Complex:
    """A complex tensor; parts may be views that are not materialised yet."""

    real: Any
    imaginary: Any

    @property
    def shape(self) -> Shape:
        return tuple(self.real.shape)


_LINEAR = frozenset(
    {
        aten.view.default, aten._unsafe_view.default, aten.reshape.default, aten.permute.default, aten.transpose.int,
        aten.expand.default, aten.clone.default, aten.alias.default, aten.detach.default, aten.slice.Tensor,
        aten.select.int, aten.unsqueeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.neg.default,
        aten.sum.dim_IntList, aten.sum.default, aten.mean.dim, aten.mean.default, aten.cat.default, aten.stack.default,
        aten.slice_backward.default, aten.select_backward.default, aten.constant_pad_nd.default, aten.t.default,
        aten.slice_scatter.default, aten.select_scatter.default, aten.index.Tensor, aten.flip.default,
        aten.index_select.default, aten.new_zeros.default, aten.zeros_like.default,
        aten.new_empty.default, aten.empty_like.default, aten.copy.default,
        aten.add.Tensor, aten.sub.Tensor, aten.tril.default, aten.triu.default, aten.repeat.default,
    }
)  # fmt: skip
"""Operators that act on either part as on a real tensor; a real operand has the imaginary part 0."""

_REAL_FACTOR = frozenset({aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar})
"""Operators that act on either part where their second operand is real."""

Handler = Callable[..., Any]
_WRITTEN: dict[Any, Handler] = {}


def _written(*targets: Any) -> Callable[[Handler], Handler]:
    def register(handler: Handler) -> Handler:
        _WRITTEN.update(dict.fromkeys(targets, handler))
        return handler

    return register


def written_operators() -> frozenset[Any]:
    """Operators on complex numbers that are written out here."""
    return frozenset(_WRITTEN)


def is_complex(node: torch.fx.Node) -> bool:
    """Whether a call reads or makes a complex tensor."""
    tensors = [n.meta.get("val") for n in (node, *node.all_input_nodes)]
    return any(isinstance(v, torch.Tensor) and v.is_complex() for v in tensors)


def lowered(c: Any, node: torch.fx.Node, given: dict[str, Any], handlers: Any) -> Any:
    """What a call with complex operands or results is. Raises ModelError for an operator without form here."""
    target, value = node.target, node.meta["val"]
    given = {name: _split(v) for name, v in given.items()}
    c.node, c.specs = node, [(tuple(value.shape), real_dtype(value.dtype))]
    if target in _WRITTEN:
        return _WRITTEN[target](c, **given)
    other = given.get("other")
    if target in _REAL_FACTOR and not isinstance(other, (Complex, complex)):
        return _both(c, handlers[target], given, shared=("other",))
    if target in _LINEAR:
        return _both(c, handlers[target], given)
    raise ModelError(
        f"torch operator {target} (layer {c.b.group.layer!r}, {c.b.group.phase}, {node.meta.get('source')}) on complex "
        "numbers has no lowering to ONNX; write it with torch.view_as_real"
    )


def real_dtype(dtype: torch.dtype) -> int:
    """The ONNX type of the parts of a torch type."""
    return onnx_dtype({torch.complex64: torch.float32, torch.complex128: torch.float64}.get(dtype, dtype))


def _both(c: Any, registered: Any, given: dict[str, Any], shared: tuple[str, ...] = ()) -> Complex:
    """The real handler, run for either part."""
    parts = []
    for imaginary in (False, True):
        ready = {name: v if name in shared else _part(c, v, imaginary) for name, v in given.items()}
        if imaginary and not shared and isinstance(given.get("other"), (int, float)):
            ready["other"] = 0
        ready = {k: v if k in registered.raw else _value(c, v) for k, v in ready.items()}
        parts.append(registered.handler(c, **ready))
    return Complex(*parts)


def _split(given: Any) -> Any:
    """Complex constants as their parts."""
    if isinstance(given, Constant) and given.tensor.is_complex():
        resolved = given.tensor.resolve_conj()
        return Complex(Constant(resolved.real.clone()), Constant(resolved.imag.clone()))
    return [_split(item) for item in given] if isinstance(given, list) else given


def _value(c: Any, given: Any) -> Any:
    if isinstance(given, list):
        return [_value(c, item) for item in given]
    return c.value(given) if isinstance(given, get_args(Tensor)) else given


def _part(c: Any, given: Any, imaginary: bool) -> Any:
    if isinstance(given, Complex):
        return given.imaginary if imaginary else given.real
    if isinstance(given, complex):
        return given.imag if imaginary else given.real
    if isinstance(given, list):
        return [_part(c, item, imaginary) for item in given]
    if imaginary and isinstance(given, get_args(Tensor)):
        value = c.value(given)
        if value.dtype in FLOATS:
            return c.b.zeros(value.shape, value.dtype) if value.shape else c.b.full((), 0.0, value.dtype)
    return given


# --- parts


@_written(aten.view_as_real.default)
def _as_real(c: Any, self: Complex) -> Var:
    parts = [c.value(v) for v in (self.real, self.imaginary)]
    made: Var = c.b.concat([c.b.reshape(v, (*v.shape, 1)) for v in parts], parts[0].rank)
    return made


@_written(aten.view_as_complex.default)
def _as_complex(c: Any, self: Any) -> Complex:
    a = c.value(self)
    parts = (c.b.slice(a, {a.rank - 1: (i, i + 1, 1)}) for i in (0, 1))
    return Complex(*(c.b.reshape(v, a.shape[:-1]) for v in parts))


@_written(aten.complex.default)
def _complex(_c: Any, real: Any, imag: Any) -> Complex:
    return Complex(real, imag)


@_written(aten._conj.default, aten._conj_physical.default, aten.conj_physical.default)
def _conjugate(c: Any, self: Complex) -> Complex:
    return Complex(self.real, c.b.unary("Neg", c.value(self.imaginary)))


@_written(aten.resolve_conj.default, aten.lift_fresh_copy.default)
def _same(_c: Any, self: Complex) -> Complex:
    return self


@_written(aten._to_copy.default)
def _converted(c: Any, self: Any, **_: Any) -> Any:
    if isinstance(self, Complex):
        return self if c.node.meta["val"].is_complex() else self.real
    a = c.b.cast(c.value(self), c.specs[0][1])
    return Complex(a, c.b.zeros(a.shape, a.dtype))


@_written(aten.abs.default)
def _size(c: Any, self: Complex) -> Var:
    squares = [c.b.mul(v, v) for v in map(c.value, (self.real, self.imaginary))]
    made: Var = c.b.unary("Sqrt", c.b.add(*squares))
    return made


@_written(aten.sgn.default)
def _direction(c: Any, self: Complex) -> Complex:
    """z / |z|, 0 where z is."""
    size = _size(c, self)
    zero = c.b.compare("Equal", size, 0.0)
    divisor = c.b.where(zero, 1.0, size)
    return Complex(*(c.b.div(c.value(v), divisor) for v in (self.real, self.imaginary)))


# --- Fourier transforms


def _matrix(rows: int, length: int, columns: int, forward: bool) -> tuple[Any, Any]:
    """Cosines and sines [rows, columns] of exp(-+ 2 pi i jk / length)."""
    angle = 2 * math.pi * (np.outer(np.arange(rows), np.arange(columns)) % length) / length
    return np.cos(angle), np.sin(angle) * (-1.0 if forward else 1.0)


def _scale(sizes: list[int], normalization: int) -> float:
    return (1.0, 1 / math.sqrt(math.prod(sizes)), 1 / math.prod(sizes))[normalization]


def _along(c: Any, a: Var, axis: int, matrix: Any) -> Var:
    """`a` times a matrix [size, out] along an axis."""
    weights = c.b.constant(np.ascontiguousarray(matrix.astype(helper.tensor_dtype_to_np_dtype(a.dtype))))
    order = [i for i in range(a.rank) if i != axis] + [axis]
    rows = c.b.transpose(a, order)
    flat = c.b.reshape(rows, (a.size // a.shape[axis], a.shape[axis]))
    made = c.b.reshape(c.b.matmul(flat, weights), (*rows.shape[:-1], matrix.shape[1]))
    found: Var = c.b.transpose(made, [order.index(i) for i in range(a.rank)])
    return found


def _transformed(c: Any, a: Complex, axis: int, forward: bool) -> Complex:
    real, imaginary = c.value(a.real), c.value(a.imaginary)
    size = real.shape[axis]
    if size > LONGEST:
        raise ModelError(f"a Fourier transform of {size} points: at most {LONGEST} are written as a product")
    cosine, sine = _matrix(size, size, size, forward)
    first = c.b.sub(_along(c, real, axis, cosine), _along(c, imaginary, axis, sine))
    return Complex(first, c.b.add(_along(c, real, axis, sine), _along(c, imaginary, axis, cosine)))


def _scaled(c: Any, a: Complex, factor: float) -> Complex:
    return Complex(*(c.b.mul(c.value(v), factor) for v in (a.real, a.imaginary)))


@_written(aten._fft_c2c.default)
def _complex_to_complex(c: Any, self: Complex, dim: list[int], normalization: int, forward: bool) -> Complex:
    rank, found = len(self.shape), self
    for axis in dim:
        found = _transformed(c, found, axis % rank, forward)
    return _scaled(c, found, _scale([self.shape[axis] for axis in dim], normalization))


@_written(aten._fft_r2c.default)
def _real_to_complex(c: Any, self: Any, dim: list[int], normalization: int, onesided: bool) -> Complex:
    a = c.value(self)
    last, rank = dim[-1] % a.rank, a.rank
    size = a.shape[last]
    if size > LONGEST:
        raise ModelError(f"a Fourier transform of {size} points: at most {LONGEST} are written as a product")
    matrices = _matrix(size, size, size // 2 + 1 if onesided else size, True)
    found = Complex(*(_along(c, a, last, m) for m in matrices))
    for axis in dim[:-1]:
        found = _transformed(c, found, axis % rank, True)
    return _scaled(c, found, _scale([a.shape[axis] for axis in dim], normalization))


@_written(aten._fft_c2r.default)
def _complex_to_real(c: Any, self: Complex, dim: list[int], normalization: int, last_dim_size: int) -> Var:
    rank, found = len(self.shape), self
    for axis in dim[:-1]:
        found = _transformed(c, found, axis % rank, False)
    last, rows = dim[-1] % rank, last_dim_size // 2 + 1
    cosine, sine = _matrix(rows, last_dim_size, last_dim_size, False)
    at = np.arange(rows)
    twice = np.where((at == 0) | (2 * at == last_dim_size), 1.0, 2.0)[:, None]  # the mirrored half is left out
    parts = [c.b.slice(c.value(v), {last: (0, rows, 1)}) for v in (found.real, found.imaginary)]
    whole = c.b.sub(_along(c, parts[0], last, cosine * twice), _along(c, parts[1], last, sine * twice))
    sizes = [*(self.shape[axis] for axis in dim[:-1]), last_dim_size]
    made: Var = c.b.mul(whole, _scale(sizes, normalization))
    return made


@_written(aten.mul.Tensor)
def _product(c: Any, self: Any, other: Any) -> Any:
    """Of two complex tensors, or of one and a real one."""
    pairs = [_pair(c, v) for v in (self, other)]
    (a, b), (x, y) = pairs
    if b is None or y is None:
        scale, (p, q) = (a, (x, y)) if b is None else (x, (a, b))
        return Complex(c.b.mul(p, scale), c.b.mul(q, scale))
    return Complex(c.b.sub(c.b.mul(a, x), c.b.mul(b, y)), c.b.add(c.b.mul(a, y), c.b.mul(b, x)))


def _pair(c: Any, given: Any) -> tuple[Any, Any]:
    """Parts of an operand, None for the imaginary one of a real operand."""
    if isinstance(given, Complex):
        return c.value(given.real), c.value(given.imaginary)
    if isinstance(given, complex):
        return given.real, given.imag
    return (given if isinstance(given, (int, float)) else c.value(given)), None
