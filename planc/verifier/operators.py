"""What operators may do to memory, as the verifier knows it: by lists and rules of its own.

The compiler has its own in `planc.graph`; nothing here is taken from there, so that an error in one is seen by the other.
Tests compare the two.
"""

import math
from collections.abc import Callable, Collection
from itertools import accumulate

from planc.enums import ExchangeKind
from planc.graph.graph import Graph, Layer, Op, Role, Tensor

_OWN = "planc.kernels"
"""Domain of planc's own operators."""

_ELEMENTWISE = {
    "": {
        "Abs": 1, "Ceil": 1, "Clip": 1, "Cos": 1, "Elu": 1, "Erf": 1, "Exp": 1, "Floor": 1, "HardSigmoid": 1,
        "LeakyRelu": 1, "Log": 1, "Neg": 1, "Reciprocal": 1, "Relu": 1, "Round": 1, "Selu": 1, "Sigmoid": 1, "Sign": 1,
        "Sin": 1, "Softplus": 1, "Softsign": 1, "Sqrt": 1, "Tanh": 1,
        "Add": 2, "Div": 2, "Mul": 2, "Pow": 2, "Sub": 2,
    },
}  # fmt: skip
"""By domain and operator: how many of the first inputs are read, element for element, before the same element of the first
output is written."""

_OWN_INPUTS = {
    "Adam": (0, 1, 2), "AllReduce": (0,), "Broadcast": (0,), "CrossEntropyGradient": (0,), "Dropout": (0,),
    "EmbeddingGradient": (2,), "Gelu": (0,), "GeluGradient": (0, 1), "LayerNorm": (0,), "LayerNormGradient": (0, 1, 4),
    "Reduce": (0,), "Rotary": (0,),
}  # fmt: skip
"""The same of planc's own operators, by the positions of such inputs; a row is read before it is written. The operators'
names end with a hash of the call, which does not count."""

_FUSED = "planc.fused"
"""Domain of generated element-wise kernels: every input of an element is read before any output of it is written."""

_GROUP = "group_"
"""How the types of those begin that hold several side by side, which do not wait for one another."""


def may_overwrite(graph: Graph, op_index: int, storage: int) -> bool:
    """Whether the operator may write its first output exactly over `storage`, which it reads.

    Each of its operands there must start the storage and have the output's type and shape: another shape is broadcast,
    another start is shifted, and an element would be read after it was overwritten.
    """
    op = graph.ops[op_index]
    return bool(op.outputs) and op.outputs[0] >= 0 and _fits_over(graph, op, op.outputs[0], storage, _overwritten(op))


def may_update(graph: Graph, op_index: int, storage: int) -> bool:
    """Whether the operator may write the next value of a state over the old one, which it reads.

    In a group of kernels each output may take the place of its own old value, which no other member reads.
    """
    op = graph.ops[op_index]
    if not _is_group(op):
        return may_overwrite(graph, op_index, storage)
    made = next(t for t in op.outputs if graph.tensors[t].storage == storage)
    return _fits_over(graph, op, made, storage, range(len(op.inputs)))


def _fits_over(graph: Graph, op: Op, output: int, storage: int, free: Collection[int]) -> bool:
    """Whether all that the operator reads of `storage` lies as the output does, at positions that are `free`."""
    written, found = graph.tensors[output], False
    for position, index in enumerate(op.inputs):
        if index < 0 or index in op.constants or graph.tensors[index].storage != storage:
            continue
        read = graph.tensors[index]
        if position not in free or read.offset or (read.dtype, read.shape) != (written.dtype, written.shape):
            return False
        found = True
    return found


def _overwritten(op: Op) -> Collection[int]:
    """Positions of the inputs over which an operator may write."""
    if op.domain == _FUSED:
        return () if _is_group(op) else range(len(op.inputs))
    if op.domain == _OWN:
        return _OWN_INPUTS.get(op.op_type.partition("_")[0], ())
    return range(_ELEMENTWISE.get(_standard(op.domain), {}).get(op.op_type, 0))


def _is_group(op: Op) -> bool:
    return op.domain == _FUSED and op.op_type.startswith(_GROUP)


def leaves_out(graph: Graph, op_index: int, address: Callable[[int], int | None]) -> bool:
    """Whether the operator is a Concat that does not run, because every input lies at its place in the output.

    The rule of the plan's document: float tensors, each the whole of a storage of its own that the step computes and the
    caller does not read; contiguous pieces of the output, none empty. `address` has where a storage lies at that slot.
    """
    op = graph.ops[op_index]
    if op.op_type != "Concat" or _standard(op.domain) != "" or any(t < 0 for t in (*op.inputs, *op.outputs)):
        return False
    whole, parts = graph.tensors[op.outputs[0]], [graph.tensors[t] for t in op.inputs]
    storages = {tensor.storage for tensor in (whole, *parts)}
    if len(storages) <= len(parts) or any(part.storage in graph.output_storages for part in parts):
        return False
    if not all("float" in t.dtype and t.nbytes and _is_whole(graph, t) for t in (whole, *parts)):
        return False
    start = address(whole.storage)
    places = accumulate((part.nbytes for part in parts[:-1]), initial=start or 0)
    at_place = all(address(part.storage) == place for part, place in zip(parts, places, strict=True))
    return start is not None and at_place and _in_rows(whole, parts)


_EXCHANGES = {
    "AllReduce": ExchangeKind.ALL_REDUCE, "Broadcast": ExchangeKind.BROADCAST, "Reduce": ExchangeKind.REDUCE,
}  # fmt: skip


def exchange_kind(op: Op) -> ExchangeKind | None:
    """What the exchange engine does for the operator; None for one that it does not compute."""
    return _EXCHANGES.get(op.op_type.partition("_")[0]) if op.domain == _OWN else None


def is_repeatable(graph: Graph, layer: Layer) -> bool:
    """Whether running the layer again gives the same bits and changes nothing else: a forward layer that draws no random
    numbers and updates no state."""
    ops = range(layer.start, layer.stop)
    updates = any(graph.storages[s].role is Role.STATE for op in ops for s in graph.op_writes[op])
    return layer.phase == "forward" and not updates and not any(graph.ops[op].random for op in ops)


def _standard(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _is_whole(graph: Graph, tensor: Tensor) -> bool:
    storage = graph.storages[tensor.storage]
    return storage.role is Role.COMPUTED and tensor.offset == 0 and tensor.nbytes == storage.nbytes


def _in_rows(whole: Tensor, parts: list[Tensor]) -> bool:
    """Whether the parts follow one another in the bytes of the whole: no axis before the one that they share has a size."""
    if len({len(t.shape) for t in (whole, *parts)}) > 1:
        return False
    for axis, size in enumerate(whole.shape):
        others = [(*part.shape[:axis], *part.shape[axis + 1 :]) for part in parts]
        if sum(part.shape[axis] for part in parts) == size and set(others) == {
            (*whole.shape[:axis], *whole.shape[axis + 1 :])
        }:
            return math.prod(whole.shape[:axis]) == 1
    return False
