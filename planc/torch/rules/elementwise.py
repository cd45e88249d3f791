"""Element-wise arithmetic and activations."""

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from onnx import TensorProto

from planc.errors import ModelError
from planc.ort_training.lazy import Permuted
from planc.torch.lowering import TorchLowering, aten, lower
from planc.torch.rules.functions import expm1
from planc.torch.tensors import Constant, Expanded, onnx_dtype, torch_dtype
from planc.training.apply import emit_forward, forward_node, gradients_of
from planc.training.emit.builder import FLOATS, Operand, Var
from planc.training.registry import ForwardNode


def _typed(c: TorchLowering, a: Any, dtype: int, shape: tuple[int, ...]) -> Operand:
    """An operand in the type that the result is computed in."""
    operand = c.operand(a, shape)
    return c.b.cast(operand, dtype) if isinstance(operand, Var) else operand


_NUMBERS: dict[str, Callable[[float, float], float]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "Div": operator.truediv,
}


_LOGICAL = {"Add": "Or", "Mul": "And"}
"""What arithmetic of booleans is; torch has no other."""


def _truth(c: TorchLowering, a: Operand) -> Var:
    return a if isinstance(a, Var) else c.b.constant(np.array(bool(a)))


def _arithmetic(c: TorchLowering, op_type: str, a: Any, other: Any) -> Var | Expanded:
    """a op other, broadcast, in the type of the result; of two numbers a number."""
    shape, dtype = c.specs[0]
    left, right = _typed(c, a, dtype, shape), _typed(c, other, dtype, shape)
    if dtype == TensorProto.BOOL:
        return c.b.op(_LOGICAL[op_type], [_truth(c, left), _truth(c, right)], shape)
    if not isinstance(left, Var) and not isinstance(right, Var):
        return c.uniform(_NUMBERS[op_type](left, right))
    forms = {"Add": c.b.add, "Sub": c.b.sub, "Mul": c.b.mul, "Div": c.b.div}
    result = forms[op_type](left, right)
    return c.b.expand(result, shape) if result.shape != shape else result


@lower(aten.add.Tensor, aten.add.Scalar, raw=("self", "other"))
def add(c: TorchLowering, self: Any, other: Any, alpha: float = 1) -> Var | Expanded:
    """self + alpha other."""
    if alpha != 1:
        other = c.b.mul(c.b.cast(c.value(other), c.specs[0][1]), float(alpha))
    return _arithmetic(c, "Add", self, other)


@lower(aten.sub.Tensor, aten.sub.Scalar, raw=("self", "other"))
def sub(c: TorchLowering, self: Any, other: Any, alpha: float = 1) -> Var | Expanded:
    """self - alpha other."""
    if alpha != 1:
        other = c.b.mul(c.b.cast(c.value(other), c.specs[0][1]), float(alpha))
    return _arithmetic(c, "Sub", self, other)


@lower(aten.rsub.Scalar, aten.rsub.Tensor, raw=("self", "other"))
def rsub(c: TorchLowering, self: Any, other: Any, alpha: float = 1) -> Var | Expanded:
    """other - alpha self."""
    return sub(c, other, self, alpha)


@lower(aten.mul.Tensor, aten.mul.Scalar, raw=("self", "other"))
def mul(c: TorchLowering, self: Any, other: Any) -> Var | Expanded:
    """self other."""
    return _arithmetic(c, "Mul", self, other)


@lower(aten.div.Tensor, aten.div.Scalar, raw=("self", "other"))
def div(c: TorchLowering, self: Any, other: Any) -> Var | Expanded:
    """self / other; by a power of two as a product, which is as exact and cheaper."""
    number = c.number(other)
    if number and abs(math.frexp(number)[0]) == 0.5:
        return _arithmetic(c, "Mul", self, 1 / number)
    return _arithmetic(c, "Div", self, other)


def _promoted(c: TorchLowering, self: Any, other: Any) -> int:
    """The type in which two operands are compared; ONNX compares no booleans by size."""
    tensors = [c.value(v) for v in (self, other) if c.number(v) is None]
    common = torch_dtype(tensors[0].dtype) if tensors else torch.float32
    for tensor in tensors[1:]:
        common = torch.promote_types(common, torch_dtype(tensor.dtype))
    for number in (c.number(self), c.number(other)):
        if isinstance(number, float) and not number.is_integer() and not common.is_floating_point:
            common = torch.float64
    return onnx_dtype(torch.int32 if common in (torch.bool, torch.uint8, torch.int8, torch.int16) else common)


def _comparison(op_type: str, *targets: Any) -> None:
    def handler(c: TorchLowering, self: Any, other: Any) -> Var:
        return _compared(c, op_type, self, other)

    lower(*targets, raw=("self", "other"))(handler)


def _compared(c: TorchLowering, op_type: str, self: Any, other: Any) -> Var:
    shape = c.specs[0][0]
    dtype = _promoted(c, self, other)
    left, right = _typed(c, self, dtype, shape), _typed(c, other, dtype, shape)
    if not isinstance(left, Var) and not isinstance(right, Var):
        left = c.b.scalar_for(left, Var("", shape, dtype))
    return c.b.expand(c.b.compare(op_type, left, right), shape)


_comparison("Greater", aten.gt.Scalar, aten.gt.Tensor)
_comparison("GreaterOrEqual", aten.ge.Scalar, aten.ge.Tensor)
_comparison("Less", aten.lt.Scalar, aten.lt.Tensor)
_comparison("LessOrEqual", aten.le.Scalar, aten.le.Tensor)
_comparison("Equal", aten.eq.Scalar, aten.eq.Tensor)


@lower(aten.ne.Scalar, aten.ne.Tensor, raw=("self", "other"))
def ne(c: TorchLowering, self: Any, other: Any) -> Var:
    """self != other."""
    return c.b.unary("Not", _compared(c, "Equal", self, other))


def _is_true(c: TorchLowering, a: Var) -> Var:
    """Where `a` is not zero."""
    return a if a.dtype == TensorProto.BOOL else c.b.unary("Not", c.b.compare("Equal", a, 0))


def _logical(op_type: str, *targets: Any) -> None:
    def handler(c: TorchLowering, self: Var, other: Var) -> Var:
        return c.b.op(op_type, [_is_true(c, self), _is_true(c, other)], c.specs[0][0])

    lower(*targets)(handler)


_logical("And", aten.logical_and.default)
_logical("Or", aten.logical_or.default)
_logical("Xor", aten.logical_xor.default)


def _bitwise(op_type: str, *targets: Any) -> None:
    def handler(c: TorchLowering, self: Any, other: Any) -> Var:
        shape, dtype = c.specs[0]
        like, number = Var("", shape, dtype), [c.number(v) for v in (self, other)]
        values = [
            c.b.scalar_for(n, like) if n is not None else c.b.cast(c.value(v), dtype)
            for v, n in zip((self, other), number, strict=True)
        ]
        return c.b.expand(
            c.b.op(
                op_type if dtype == TensorProto.BOOL else f"Bitwise{op_type}",
                values,
                np.broadcast_shapes(*(v.shape for v in values)),
            ),
            shape,
        )

    lower(*targets, raw=("self", "other"))(handler)


_bitwise("And", aten.bitwise_and.Tensor, aten.bitwise_and.Scalar, aten.bitwise_and.Scalar_Tensor)
_bitwise("Or", aten.bitwise_or.Tensor, aten.bitwise_or.Scalar, aten.bitwise_or.Scalar_Tensor)
_bitwise("Xor", aten.bitwise_xor.Tensor, aten.bitwise_xor.Scalar, aten.bitwise_xor.Scalar_Tensor)


@lower(aten.logical_not.default)
def logical_not(c: TorchLowering, self: Var) -> Var:
    """Where zero."""
    return c.b.unary("Not", _is_true(c, self))


@lower(aten.bitwise_not.default)
def bitwise_not(c: TorchLowering, self: Var) -> Var:
    """Every bit turned."""
    return c.b.unary("Not" if self.dtype == TensorProto.BOOL else "BitwiseNot", self)


@lower(
    aten.bitwise_left_shift.Tensor,
    aten.bitwise_right_shift.Tensor,
    aten.__lshift__.Scalar,
    aten.__rshift__.Scalar,
    raw=("other",),
)
def shift(c: TorchLowering, self: Var, other: Any) -> Var:
    """Times or divided by a power of two, rounded down; ONNX shifts unsigned numbers only."""
    left = "left" in str(c.node.target) or "lshift" in str(c.node.target)
    number = c.number(other)
    if number is None:
        raise ModelError("a shift by a tensor has no lowering to ONNX")
    factor = 2 ** int(number)
    if left:
        return c.b.mul(self, factor)
    rest = c.b.op("Mod", [self, c.b.scalar_for(factor, self)], self.shape, fmod=0)
    return c.b.div(c.b.sub(self, rest), factor)


_UNARY = {
    "Neg": (aten.neg.default,),
    "Exp": (aten.exp.default,),
    "Log": (aten.log.default,),
    "Sqrt": (aten.sqrt.default,),
    "Reciprocal": (aten.reciprocal.default,),
    "Abs": (aten.abs.default,),
    "Sin": (aten.sin.default,),
    "Cos": (aten.cos.default,),
    "Tan": (aten.tan.default,),
    "Atan": (aten.atan.default,),
    "Erf": (aten.erf.default,),
    "Tanh": (aten.tanh.default,),
    "Sigmoid": (aten.sigmoid.default,),
    "Floor": (aten.floor.default,),
    "Ceil": (aten.ceil.default,),
    "Round": (aten.round.default,),
    "IsNaN": (aten.isnan.default,),
}


def _unary(op_type: str) -> Callable[..., Var]:
    def handler(c: TorchLowering, self: Var) -> Var:
        shape, dtype = c.specs[0]
        if op_type == "IsNaN":
            return c.b.op(op_type, [self], shape, dtype)
        return c.b.unary(op_type, c.b.cast(self, dtype))

    return handler


for _op_type, _targets in _UNARY.items():
    lower(*_targets)(_unary(_op_type))


@lower(aten.sign.default, aten.sgn.default)
def sign(c: TorchLowering, self: Var) -> Var:
    """-1, 0 or 1; 0 too where self is not a number, which ONNX's operator passes on."""
    if self.dtype not in FLOATS:
        return c.b.unary("Sign", self)
    above, below = (c.b.cast(c.b.compare(op, self, 0.0), self.dtype) for op in ("Greater", "Less"))
    return c.b.sub(above, below)


@lower(aten.rsqrt.default)
def rsqrt(c: TorchLowering, self: Var) -> Var:
    """1 / sqrt(self)."""
    return c.b.unary("Reciprocal", c.b.unary("Sqrt", self))


@lower(aten.pow.Tensor_Scalar, aten.pow.Tensor_Tensor, raw=("exponent",))
def power(c: TorchLowering, self: Var, exponent: Any) -> Var:
    """self ** exponent; small whole powers and roots by cheaper operators."""
    number, (shape, dtype) = c.number(exponent), c.specs[0]
    self = c.b.cast(self, dtype)
    short: dict[float | None, Callable[[], Var]] = {
        0: lambda: c.b.expand(c.b.scalar_for(1, self), self.shape),
        1: lambda: self,
        2: lambda: c.b.mul(self, self),
        3: lambda: c.b.mul(c.b.mul(self, self), self),
        0.5: lambda: c.b.unary("Sqrt", self),
        -1: lambda: c.b.unary("Reciprocal", self),
        -0.5: lambda: rsqrt(c, self),
    }
    if number is not None and number in short and (number >= 0 or self.dtype in FLOATS):
        return c.b.expand(short[number](), shape)
    if number is None:
        return c.b.op("Pow", [self, c.b.cast(c.value(exponent), dtype)], shape)
    return c.b.pow(self, float(number))


_SMALL = frozenset({TensorProto.BOOL, TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16})


def _extremum(op_type: str, *targets: Any) -> None:
    def handler(c: TorchLowering, self: Var, other: Var) -> Var:
        shape, dtype = c.specs[0]
        wide = TensorProto.INT32 if dtype in _SMALL else dtype
        found = c.b.op(op_type, [c.b.cast(v, wide) for v in (self, other)], shape)
        return c.b.cast(found, dtype)

    lower(*targets)(handler)


_extremum("Max", aten.maximum.default)
_extremum("Min", aten.minimum.default)


def _not_nan(op_type: str, *targets: Any) -> None:
    """Register an extremum that takes the other operand where one is not a number."""

    def handler(c: TorchLowering, self: Var, other: Var) -> Var:
        shape, dtype = c.specs[0]
        a, b = c.b.cast(self, dtype), c.b.cast(other, dtype)
        found = c.b.op(op_type, [a, b], shape)
        for given, instead in ((a, b), (b, a)):
            if dtype in FLOATS:
                found = c.b.where(c.b.op("IsNaN", [given], given.shape, TensorProto.BOOL), instead, found)
        return found

    lower(*targets)(handler)


_not_nan("Max", aten.fmax.default, torch.ops.prims.fmax.default)
_not_nan("Min", aten.fmin.default, torch.ops.prims.fmin.default)


def _sole_branch(condition: Any) -> bool | None:
    """What a condition known at export always is, None where it varies."""
    if not isinstance(condition, Constant) or not condition.tensor.numel():
        return None
    first = bool(condition.tensor.flatten()[0])
    return first if bool((condition.tensor == first).all()) else None


@lower(aten.where.self, raw=("condition", "self", "other"))
def where(c: TorchLowering, condition: Any, self: Any, other: Any) -> Var:
    """self where `condition`, else other."""
    shape, dtype = c.specs[0]
    chosen = _sole_branch(condition)
    if chosen is not None:
        return c.b.expand(c.b.cast(c.value(c.tensor(self if chosen else other)), dtype), shape)
    mask = c.operand(condition, shape)
    a, b = _typed(c, self, dtype, shape), _typed(c, other, dtype, shape)
    if not isinstance(mask, Var):
        mask = c.b.constant(np.array(bool(mask)))
    if mask.dtype != TensorProto.BOOL:
        mask = c.b.cast(mask, TensorProto.BOOL)
    if isinstance(a, Var) or isinstance(b, Var):
        result = c.b.where(mask, a, b)
    else:
        result = c.b.where(mask, c.b.scalar_for(a, Var("", shape, dtype)), b)
    return c.b.expand(result, shape)


@lower(aten.masked_fill.Scalar, aten.masked_fill.Tensor, raw=("self", "mask", "value"))
def masked_fill(c: TorchLowering, self: Any, mask: Any, value: Any) -> Any:
    """`value` where `mask`, else self."""
    if _sole_branch(mask) is False and isinstance(self, (Var, Permuted)) and tuple(self.shape) == c.specs[0][0]:
        return self  # the layout in which it lies is kept
    return where(c, mask, value, self)


@lower(aten.clamp.default, aten.clamp_min.default, aten.clamp_max.default)
def clamp(c: TorchLowering, self: Var, min: float | None = None, max: float | None = None) -> Var:
    """self limited to [min, max]; to max where the bounds cross."""
    dtype = c.specs[0][1]
    if min is not None and max is not None and min > max:
        return c.b.expand(c.b.scalar_for(max, Var("", self.shape, dtype)), self.shape)
    a = c.b.cast(self, dtype)
    bounds = [None if v is None else c.b.full((), v, a.dtype) for v in (min, max)]
    return c.b.op("Clip", [a, *bounds] if bounds[1] else [a, bounds[0]], a.shape)


@lower(aten.clamp.Tensor, aten.clamp_min.Tensor, aten.clamp_max.Tensor)
def clamp_by_tensors(c: TorchLowering, self: Var, min: Var | None = None, max: Var | None = None) -> Var:
    """self limited to [min, max], element by element."""
    (shape, dtype), found = c.specs[0], c.b.cast(self, c.specs[0][1])
    for op_type, bound in (("Max", min), ("Min", max)):
        if bound is not None:
            found = c.b.op(op_type, [found, c.b.cast(bound, dtype)], np.broadcast_shapes(found.shape, bound.shape))
    return c.b.expand(found, shape)


@lower(aten._to_copy.default, torch.ops.prims.convert_element_type.default, raw=("self", "a"))
def to_copy(c: TorchLowering, self: Any = None, a: Any = None, **_: Any) -> Any:
    """self in another type."""
    given = self if self is not None else a
    made = c.value(given)
    return given if made.dtype == c.specs[0][1] else c.b.cast(made, c.specs[0][1])


# --- activations: forward and gradient by the rules of the library


def _forward(c: TorchLowering, op_type: str, x: Var, **attributes: Any) -> ForwardNode:
    """Emit `op_type` of x and remember it for the gradient."""
    y = Var(c.fresh(op_type), x.shape, x.dtype)
    node, _ = emit_forward(c.b, forward_node(c.b, c.table, op_type, [x], [y], **attributes))
    c.forward_of[_key(op_type, x, attributes)] = node
    return node


def _key(op_type: str, x: Var, settings: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells one forward operator on `x` from another."""
    return (op_type, x.name, *sorted(settings.items()))


def _backward(c: TorchLowering, op_type: str, x: Var, dy: Var, **attributes: Any) -> Var:
    """The gradient of `op_type` at input x: of the forward operator where one was lowered."""
    node = c.forward_of.get(_key(op_type, x, attributes)) or forward_node(c.b, c.table, op_type, [x], [x], **attributes)
    return gradients_of(c.b, node, [dy], [0])[0]


def _from_output(c: TorchLowering, op_type: str, y: Var, dy: Var) -> Var:
    return gradients_of(c.b, forward_node(c.b, c.table, op_type, [None], [y]), [dy], [0])[0]


@lower(aten.relu.default)
def relu(c: TorchLowering, self: Var) -> Var:
    """max(self, 0)."""
    return c.b.unary("Relu", self)


@lower(aten.threshold_backward.default)
def threshold_backward(c: TorchLowering, grad_output: Var, self: Var, threshold: float) -> Var:
    """Of ReLU, whose output torch gives as `self`."""
    if threshold == 0:
        return _from_output(c, "Relu", self, grad_output)
    return c.b.mul(grad_output, c.b.cast(c.b.compare("Greater", self, float(threshold)), grad_output.dtype))


@lower(aten.tanh_backward.default)
def tanh_backward(c: TorchLowering, grad_output: Var, output: Var) -> Var:
    """From the output."""
    return _from_output(c, "Tanh", output, grad_output)


@lower(aten.sigmoid_backward.default)
def sigmoid_backward(c: TorchLowering, grad_output: Var, output: Var) -> Var:
    """From the output."""
    return _from_output(c, "Sigmoid", output, grad_output)


@lower(aten.gelu.default)
def gelu(c: TorchLowering, self: Var, approximate: str = "none") -> Var:
    """Exact or tanh form."""
    return _forward(c, "Gelu", self, approximate=approximate).output


@lower(aten.gelu_backward.default)
def gelu_backward(c: TorchLowering, grad_output: Var, self: Var, approximate: str = "none") -> Var:
    """From the input."""
    return _backward(c, "Gelu", self, grad_output, approximate=approximate)


@lower(aten.leaky_relu.default)
def leaky_relu(c: TorchLowering, self: Var, negative_slope: float = 0.01) -> Var:
    """self where positive, else negative_slope self."""
    return _forward(c, "LeakyRelu", self, alpha=float(negative_slope)).output


@lower(aten.leaky_relu_backward.default)
def leaky_relu_backward(
    c: TorchLowering, grad_output: Var, self: Var, negative_slope: float, self_is_result: bool = False
) -> Var:
    """From the output where the slope is not negative: self and output have the same sign."""
    del self_is_result
    return _backward(c, "LeakyRelu", self, grad_output, alpha=float(negative_slope))


@lower(aten.elu.default)
def elu(c: TorchLowering, self: Var, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Var:
    """scale (self where positive, else alpha (exp(input_scale self) - 1)): ELU, CELU and SELU."""
    if scale == 1 and input_scale == 1:
        return c.b.unary("Elu", self, alpha=float(alpha))
    negative = c.b.mul(expm1(c, c.b.mul(self, float(input_scale))), float(alpha * scale))
    return c.b.where(c.b.compare("Greater", self, 0.0), c.b.mul(self, float(scale)), negative)


@lower(aten.hardtanh.default)
def hardtanh(c: TorchLowering, self: Var, min_val: float = -1, max_val: float = 1) -> Var:
    """ReLU6 and its kin."""
    bounds = [c.b.full((), v, self.dtype) for v in (min_val, max_val)]
    y = Var(c.fresh("Clip"), self.shape, self.dtype)
    node, _ = emit_forward(c.b, forward_node(c.b, c.table, "Clip", [self, *bounds], [y]))
    c.forward_of[_key("Clip", self, {"min": min_val, "max": max_val})] = node
    return y


@lower(aten.hardtanh_backward.default)
def hardtanh_backward(c: TorchLowering, grad_output: Var, self: Var, min_val: float, max_val: float) -> Var:
    """From the output, so that the input need not be kept beside it."""
    bounds = [c.b.full((), v, self.dtype) for v in (min_val, max_val)]
    known = c.forward_of.get(_key("Clip", self, {"min": min_val, "max": max_val})) or forward_node(
        c.b, c.table, "Clip", [self, *bounds], [self]
    )
    return gradients_of(c.b, known, [grad_output], [0])[0]
