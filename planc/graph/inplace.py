"""Which outputs of an operator may be written over which inputs."""

from collections.abc import Sequence

from planc.graph.fused import DOMAIN
from planc.graph.grouped import is_group
from planc.graph.operators import IN_PLACE_BINARY, IN_PLACE_UNARY
from planc.kernels import DOMAIN as OWN
from planc.kernels import operator_named


def in_place_inputs(op_type: str, domain: str, arity: int) -> tuple[int, ...]:
    """Positions of the inputs whose bytes the first output may take, by operator type alone.

    The caller still has to see that shapes and types agree and that the input is dead after the operator.
    """
    if domain == DOMAIN:  # all inputs of an element are read before one of its outputs is written
        return () if is_group(op_type) else tuple(range(arity))
    if domain == OWN:
        return tuple(k for k in operator_named(op_type.rpartition("_")[0]).in_place if k < arity)
    if domain not in ("", "ai.onnx"):
        return ()
    if op_type in IN_PLACE_UNARY:
        return (0,)
    return tuple(range(min(arity, 2))) if op_type in IN_PLACE_BINARY else ()


def may_write_over(
    op_type: str, domain: str, inputs: Sequence[tuple[int, str, tuple[int, ...]]], output: tuple[str, tuple[int, ...]]
) -> tuple[int, ...]:
    """Storages that the first output (dtype, shape) may take over, given the inputs as (storage, dtype, shape).

    An operand of another shape is broadcast and may be read after it was overwritten, so an input qualifies only when
    every operand on the same storage has the output's shape.
    """
    found = []
    for position in in_place_inputs(op_type, domain, len(inputs)):
        storage = inputs[position][0]
        same = [(dtype, shape) for s, dtype, shape in inputs if s == storage]
        if storage >= 0 and all(pair == output for pair in same):
            found.append(storage)
    return tuple(dict.fromkeys(found))
