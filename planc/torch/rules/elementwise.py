"""Element-wise arithmetic and activations."""

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from onnx import TensorProto

from planc.errors import ModelError
from planc.torch.lowering import TorchLowering, aten, lower
from planc.torch.tensors import Expanded, onnx_dtype, torch_dtype
from planc.training.apply import emit_forward, forward_node, gradients_of
from planc.training.emit.builder import Operand, Var
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


def _arithmetic(c: TorchLowering, op_type: str, a: Any, other: Any) -> Var | Expanded:
    """a op other, broadcast, in the type of the result; of two numbers a number."""
    shape, dtype = c.specs[0]
    left, right = _typed(c, a, dtype, shape), _typed(c, other, dtype, shape)
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
    """The type in which two operands are compared."""
    common = torch_dtype(c.value(self).dtype)
    number = c.number(other)
    if number is None:
        common = torch.promote_types(common, torch_dtype(c.value(other).dtype))
    elif isinstance(number, float) and not number.is_integer() and not common.is_floating_point:
        common = torch.float32
    return onnx_dtype(common)


def _comparison(op_type: str, *targets: Any) -> None:
    def handler(c: TorchLowering, self: Any, other: Any) -> Var:
        shape = c.specs[0][0]
        dtype = _promoted(c, self, other)
        result = c.b.compare(op_type, _typed(c, self, dtype, shape), _typed(c, other, dtype, shape))
        return c.b.expand(result, shape)

    lower(*targets, raw=("self", "other"))(handler)


_comparison("Greater", aten.gt.Scalar, aten.gt.Tensor)
_comparison("GreaterOrEqual", aten.ge.Scalar, aten.ge.Tensor)
_comparison("Less", aten.lt.Scalar, aten.lt.Tensor)
_comparison("LessOrEqual", aten.le.Scalar, aten.le.Tensor)
_comparison("Equal", aten.eq.Scalar, aten.eq.Tensor)


@lower(aten.ne.Scalar, aten.ne.Tensor, raw=("self", "other"))
def ne(c: TorchLowering, self: Any, other: Any) -> Var:
    """self != other."""
    shape = c.specs[0][0]
    a = c.value(self)
    return c.b.unary("Not", c.b.compare("Equal", a, _typed(c, other, a.dtype, shape)))


def _logical(op_type: str, *targets: Any) -> None:
    def handler(c: TorchLowering, self: Var, other: Var) -> Var:
        if self.dtype != TensorProto.BOOL or other.dtype != TensorProto.BOOL:
            raise ModelError(f"{op_type} of integers has no lowering to ONNX; compare first")
        return c.b.op(op_type, [self, other], c.specs[0][0])

    lower(*targets)(handler)


_logical("And", aten.logical_and.default, aten.bitwise_and.Tensor)
_logical("Or", aten.logical_or.default, aten.bitwise_or.Tensor)
_logical("Xor", aten.logical_xor.default, aten.bitwise_xor.Tensor)


@lower(aten.logical_not.default, aten.bitwise_not.default)
def logical_not(c: TorchLowering, self: Var) -> Var:
    """Not of a boolean tensor."""
    return c.b.unary("Not", self)


_UNARY = {
    "Neg": (aten.neg.default,),
    "Exp": (aten.exp.default,),
    "Log": (aten.log.default,),
    "Sqrt": (aten.sqrt.default,),
    "Reciprocal": (aten.reciprocal.default,),
    "Abs": (aten.abs.default,),
    "Sign": (aten.sign.default, aten.sgn.default),
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


@lower(aten.rsqrt.default)
def rsqrt(c: TorchLowering, self: Var) -> Var:
    """1 / sqrt(self)."""
    return c.b.unary("Reciprocal", c.b.unary("Sqrt", self))


@lower(aten.log1p.default)
def log1p(c: TorchLowering, self: Var) -> Var:
    """log(1 + self)."""
    return c.b.unary("Log", c.b.add(self, 1.0))


@lower(aten.expm1.default)
def expm1(c: TorchLowering, self: Var) -> Var:
    """exp(self) - 1."""
    return c.b.sub(c.b.unary("Exp", self), 1.0)


@lower(aten.pow.Tensor_Scalar, aten.pow.Tensor_Tensor, raw=("exponent",))
def power(c: TorchLowering, self: Var, exponent: Any) -> Var:
    """self ** exponent; small whole powers and roots by cheaper operators."""
    number = c.number(exponent)
    short: dict[float | None, Callable[[], Var]] = {
        1: lambda: self,
        2: lambda: c.b.mul(self, self),
        3: lambda: c.b.mul(c.b.mul(self, self), self),
        0.5: lambda: c.b.unary("Sqrt", self),
        -1: lambda: c.b.unary("Reciprocal", self),
        -0.5: lambda: rsqrt(c, self),
    }
    if number in short:
        return short[number]()
    if number is None:
        return c.b.op("Pow", [self, c.value(exponent)], c.specs[0][0])
    return c.b.pow(self, float(number))


def _extremum(op_type: str, *targets: Any) -> None:
    def handler(c: TorchLowering, self: Var, other: Var) -> Var:
        return c.b.op(op_type, [self, other], c.specs[0][0])

    lower(*targets)(handler)


_extremum("Max", aten.maximum.default)
_extremum("Min", aten.minimum.default)


@lower(aten.where.self, raw=("condition", "self", "other"))
def where(c: TorchLowering, condition: Any, self: Any, other: Any) -> Var:
    """self where `condition`, else other."""
    shape, dtype = c.specs[0]
    mask = c.operand(condition, shape)
    a, b = _typed(c, self, dtype, shape), _typed(c, other, dtype, shape)
    if not isinstance(mask, Var):
        raise ModelError("a condition known at export should have been folded")
    if isinstance(a, Var) or isinstance(b, Var):
        result = c.b.where(mask, a, b)
    else:
        result = c.b.where(mask, c.b.scalar_for(a, Var("", shape, dtype)), b)
    return c.b.expand(result, shape)


@lower(aten.masked_fill.Scalar, aten.masked_fill.Tensor, raw=("self", "mask", "value"))
def masked_fill(c: TorchLowering, self: Any, mask: Any, value: Any) -> Var:
    """`value` where `mask`, else self."""
    return where(c, mask, value, self)


@lower(aten.clamp.default, aten.clamp_min.default, aten.clamp_max.default)
def clamp(c: TorchLowering, self: Var, min: float | None = None, max: float | None = None) -> Var:
    """self limited to [min, max]."""
    bounds = [None if v is None else c.b.full((), v, self.dtype) for v in (min, max)]
    return c.b.op("Clip", [self, *bounds] if bounds[1] else [self, bounds[0]], self.shape)


@lower(aten.clamp.Tensor)
def clamp_by_tensors(c: TorchLowering, self: Var, min: Var | None = None, max: Var | None = None) -> Var:
    """self limited to [min, max], element by element."""
    for op_type, bound in (("Max", min), ("Min", max)):
        if bound is not None:
            self = c.b.op(op_type, [self, c.b.cast(bound, self.dtype)], c.specs[0][0])
    return self


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
    c.forward_of[op_type, x.name] = node
    return node


def _backward(c: TorchLowering, op_type: str, x: Var, dy: Var, **attributes: Any) -> Var:
    """The gradient of `op_type` at input x: of the forward operator where one was lowered."""
    node = c.forward_of.get((op_type, x.name)) or forward_node(c.b, c.table, op_type, [x], [x], **attributes)
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
    c.forward_of["Clip", self.name] = node
    return y


@lower(aten.hardtanh_backward.default)
def hardtanh_backward(c: TorchLowering, grad_output: Var, self: Var, min_val: float, max_val: float) -> Var:
    """From the output, so that the input need not be kept beside it."""
    bounds = [c.b.full((), v, self.dtype) for v in (min_val, max_val)]
    known = c.forward_of.get(("Clip", self.name)) or forward_node(c.b, c.table, "Clip", [self, *bounds], [self])
    return gradients_of(c.b, known, [grad_output], [0])[0]
