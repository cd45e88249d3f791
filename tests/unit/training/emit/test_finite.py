"""What may hold an infinity, node by node."""

import pytest
from onnx import TensorProto

from planc.training.emit.builder import Builder, Var


def _named(name: str) -> Var:
    return Var(name, (3,), TensorProto.FLOAT)


@pytest.mark.parametrize(
    ("compared", "instead", "infinite"),
    [(0.0, 1.0, False), (0.0, 0.0, True), (1.0, 1.0, True)],
    ids=["zero is replaced", "by zero again", "another number is replaced"],
)
def test_a_divisor_without_zeros_makes_no_infinity(compared: float, instead: float, infinite: bool) -> None:
    b, x, count = Builder(), _named("x"), _named("count")
    divisor = b.where(b.compare("Equal", count, compared), instead, count)
    assert b.finite.may_be_infinite(b.div(x, divisor).name) == infinite


def test_zeros_of_one_tensor_do_not_speak_for_another() -> None:
    b, x, count, other = Builder(), _named("x"), _named("count"), _named("other")
    divisor = b.where(b.compare("Equal", count, 0.0), 1.0, other)
    assert b.finite.may_be_infinite(b.div(x, divisor).name)
