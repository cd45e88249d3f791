"""Which tensors may hold an infinity that finite inputs do not: a mask must select among them, not multiply.

A quotient, a logarithm or a negative power is infinite where its argument is zero, and zero times infinity is not a
number. What a positive constant was added to, or a bound above zero keeps away from it, is never zero; nor is what a
Where replaces where it is zero.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_NOT_NEGATIVE = frozenset(
    {"Abs", "Sqrt", "Exp", "Sigmoid", "Relu", "Softmax", "ReduceSumSquare", "ReduceL1", "ReduceL2"}
)
_KEEPS_SIGN = frozenset(
    {"ReduceSum", "ReduceMean", "ReduceMax", "Reshape", "Cast", "Transpose", "Expand", "Slice", "Identity"}
    | {"GlobalAveragePool", "AveragePool", "Squeeze", "Unsqueeze"}
)
_BOUNDED = frozenset(
    {"Softmax", "LogSoftmax", "Sigmoid", "Tanh", "Erf", "Sin", "Cos", "Sign", "Shape", "IsNaN", "IsInf", "Not", "And"}
    | {"Or", "Xor", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "ArgMax", "ArgMin", "HardSigmoid"}
)

Known = Callable[[str], float | None]


@dataclass
class Finiteness:
    """Follows every node that is made, in order."""

    _infinite: set[str] = field(default_factory=set)
    _not_negative: set[str] = field(default_factory=set)
    _positive: set[str] = field(default_factory=set)
    _not_zero: set[str] = field(default_factory=set)
    _zero_where: dict[str, str] = field(default_factory=dict)
    """By a mask that says where a tensor is zero: that tensor."""

    def may_be_infinite(self, name: str) -> bool:
        """Whether tensor `name` may hold an infinity."""
        return name in self._infinite

    def note(
        self, op_type: str, inputs: Sequence[str], outputs: Sequence[str], known: Known, _settings: Mapping[str, Any]
    ) -> None:
        """Follow one node; `known` gives the number that a constant of one element holds."""
        if op_type not in _BOUNDED and (
            any(name in self._infinite for name in inputs) or self._divides_by_zero(op_type, inputs, known)
        ):
            self._infinite.update(outputs)
        if self._is_not_negative(op_type, inputs, known):
            self._not_negative.update(outputs)
        if self._is_positive(op_type, inputs, known):
            self._positive.update(outputs)
        self._note_zeros(op_type, inputs, outputs, known)

    def _note_zeros(self, op_type: str, inputs: Sequence[str], outputs: Sequence[str], known: Known) -> None:
        if op_type == "Equal" and known(inputs[1]) == 0:
            self._zero_where[outputs[0]] = inputs[0]
        replaced = op_type == "Where" and inputs[2] == self._zero_where.get(inputs[0])
        if replaced and known(inputs[1]):
            self._not_zero.update(outputs)

    def _divides_by_zero(self, op_type: str, inputs: Sequence[str], known: Known) -> bool:
        if op_type == "Div":
            return not (inputs[1] in self._positive or inputs[1] in self._not_zero or known(inputs[1]))
        if op_type in ("Reciprocal", "Log"):
            return inputs[0] not in self._positive
        if op_type == "Pow":
            exponent = known(inputs[1])
            return inputs[0] not in self._positive and (exponent is None or exponent < 0)
        return False

    def _is_not_negative(self, op_type: str, inputs: Sequence[str], known: Known) -> bool:
        if op_type == "Mul" and inputs[0] == inputs[1]:
            return True
        if op_type in ("Mul", "Add", "Sum", "Max", "Div"):
            return all(name in self._not_negative or (known(name) or 0.0) > 0 for name in inputs)
        return op_type in _NOT_NEGATIVE or (op_type in _KEEPS_SIGN and inputs[0] in self._not_negative)

    def _is_positive(self, op_type: str, inputs: Sequence[str], known: Known) -> bool:
        numbers = [known(name) for name in inputs if name]
        if op_type == "Add":
            pairs = zip(inputs, reversed(numbers), strict=False)
            return any((number or 0.0) > 0 and name in self._not_negative for name, number in pairs)
        if op_type in ("Max", "Clip"):
            bounds = numbers if op_type == "Max" else numbers[1:2]
            return any((number or 0.0) > 0 for number in bounds)
        if op_type in ("Mul", "Div"):
            return all(n in self._positive or (v or 0.0) > 0 for n, v in zip(inputs, numbers, strict=True))
        kept = op_type in _KEEPS_SIGN or op_type in ("Sqrt", "Reciprocal")
        return kept and inputs[0] in self._positive
