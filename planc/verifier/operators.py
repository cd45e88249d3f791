"""What operators may do to memory, as the verifier knows it: by lists and rules of its own.

The compiler has its own in `planc.graph`; nothing here is taken from there, so that an error in one is seen by the other.
Tests compare the two.
"""

import math
from collections.abc import Callable
from itertools import accumulate

from planc.graph.graph import Graph, Layer, Role, Tensor

_OWN = "planc.kernels"
"""Domain of planc's own operators."""

_ELEMENTWISE = {
    "": {
        "Abs": 1, "Ceil": 1, "Clip": 1, "Cos": 1, "Elu": 1, "Erf": 1, "Exp": 1, "Floor": 1, "HardSigmoid": 1,
        "LeakyRelu": 1, "Log": 1, "Neg": 1, "Reciprocal": 1, "Relu": 1, "Round": 1, "Selu": 1, "Sigmoid": 1, "Sign": 1,
        "Sin": 1, "Softplus": 1, "Softsign": 1, "Sqrt": 1, "Tanh": 1,
        "Add": 2, "Div": 2, "Mul": 2, "Pow": 2, "Sub": 2,
    },
    _OWN: {"CrossEntropyGradient": 1, "Dropout": 1},
}  # fmt: skip
"""By domain and operator: how many of the first inputs are read, element for element, before the same element of the first
output is written. Names of planc's own operators end with a hash of the call, which does not count."""

_FUSED = "planc.fused"
"""Domain of generated element-wise kernels: every input of an element is read before any output of it is written."""


def may_overwrite(graph: Graph, op_index: int, storage: int) -> bool:
    """Whether the operator may write its first output exactly over `storage`, which it reads.

    Each of its operands there must start the storage and have the output's type and shape: another shape is broadcast,
    another start is shifted, and an element would be read after it was overwritten.
    """
    op = graph.ops[op_index]
    if not op.outputs or op.outputs[0] < 0:
        return False
    op_type = op.op_type.partition("_")[0] if op.domain == _OWN else op.op_type
    count = len(op.inputs) if op.domain == _FUSED else _ELEMENTWISE.get(_standard(op.domain), {}).get(op_type, 0)
    written = graph.tensors[op.outputs[0]]
    found = False
    for position, index in enumerate(op.inputs):
        if index < 0 or index in op.constants or graph.tensors[index].storage != storage:
            continue
        read = graph.tensors[index]
        if position >= count or read.offset or (read.dtype, read.shape) != (written.dtype, written.shape):
            return False
        found = True
    return found


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
