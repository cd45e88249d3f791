"""What the ranks of a step exchange: sums for all of them or for one, and what one of them gives to all.

Sums are in the order of the ranks. A device's exchange engine computes them, beside the other engines and in the input's
bytes (`planc.plan`). The functions are what they mean for one rank alone, so that any runtime executes a model that has
them: without the other ranks' shares. The output of a `Reduce` has no meaning but on its `root`.
"""

from collections.abc import Sequence

import onnx

from planc.enums import ExchangeKind
from planc.kernels.body import Body
from planc.kernels.operator import DOMAIN, Attribute, Call, Operator, TensorType, register
from planc.kernels.source import C_TYPES


def _types(call: Call) -> tuple[TensorType, ...]:
    (x,) = call.inputs
    if x.dtype not in (*C_TYPES, onnx.TensorProto.DOUBLE) or call.whole("ranks") < 2:
        raise call.refuse("a tensor of float64, float32, float16 or bfloat16, and two ranks or more")
    if not 0 <= call.attributes.get("root", 0) < call.whole("ranks"):  # type: ignore[operator]
        raise call.refuse(f"a root below {call.whole('ranks')}, the number of ranks")
    return (x,)


def _meaning(_call: Call, body: Body) -> Sequence[str]:
    return [body.inputs[0]]


def _exchange(name: str, output: str, **attributes: Attribute) -> Operator:
    return register(Operator(name, ("x",), (output,), _types, _meaning, {"ranks": 2, **attributes}, in_place=(0,)))


ALL_REDUCE = _exchange("AllReduce", "sum")
REDUCE = _exchange("Reduce", "sum", root=0)
BROADCAST = _exchange("Broadcast", "given", root=0)

_KINDS = {
    ALL_REDUCE.name: ExchangeKind.ALL_REDUCE,
    REDUCE.name: ExchangeKind.REDUCE,
    BROADCAST.name: ExchangeKind.BROADCAST,
}


def exchange_kind(op_type: str, domain: str) -> ExchangeKind | None:
    """What the exchange engine does for an operator of that type; None for one that it does not compute."""
    return _KINDS.get(op_type.partition("_")[0]) if domain == DOMAIN else None


def is_exchange(op_type: str, domain: str) -> bool:
    """Whether an operator of that type is computed by the exchange engine."""
    return exchange_kind(op_type, domain) is not None
