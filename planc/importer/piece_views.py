"""Operators whose outputs are contiguous pieces of their input, and whether to make them views of it.

A piece that is a view takes no bytes and no time, but keeps its source whole until the last piece is dead, and takes the
place of smaller bytes in whoever reads it. It becomes one only where neither the peak of the step nor the bytes of its
neediest operator rise.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from planc.graph.operators import PIECES
from planc.importer.draft import Draft, Tensors
from planc.importer.live_bytes import StepMemory
from planc.importer.wired import Wired
from planc.units import ALIGNMENT

Constants = Mapping[int, np.ndarray]
"""Values by tensor index."""


def contiguous(shape: Sequence[int], starts: Sequence[int], sizes: Sequence[int]) -> int | None:
    """Elements before the block of `sizes` at `starts` in an array of `shape`; None where the block is not contiguous.

    It is contiguous when it has one row along every axis before the last one that it does not span.
    """
    partial = [axis for axis, size in enumerate(sizes) if size != shape[axis]]
    if partial and math.prod(sizes[: partial[-1]]) != 1:
        return None
    return sum(start * math.prod(shape[axis + 1 :]) for axis, start in enumerate(starts))


def pieces(node: Wired, shapes: Sequence[tuple[str, tuple[int, ...]]], constants: Constants) -> dict[int, int] | None:
    """For every output of a Split, Slice or Gather its first element in the input; None where one is not contiguous."""
    if node.op_type not in PIECES or node.proto.domain not in ("", "ai.onnx"):
        return None
    shape = shapes[node.inputs[0]][1]
    found: dict[int, int] = {}
    blocks = {"Split": _split, "Slice": _slice, "Gather": _gather}[node.op_type](node, shapes, constants)
    for output, starts, sizes in blocks:
        at = contiguous(shape, starts, sizes)
        if at is None:
            return None
        found[output] = at
    return found or None


_Blocks = Iterator[tuple[int, list[int], list[int]]]


def _axis(node: Wired, rank: int) -> int:
    return next((a.i for a in node.proto.attribute if a.name == "axis"), 0) % max(rank, 1)


def _split(node: Wired, shapes: Sequence[tuple[str, tuple[int, ...]]], _: Constants) -> _Blocks:
    rank = len(shapes[node.inputs[0]][1])
    axis, start = _axis(node, rank), 0
    for output in node.outputs:
        if output < 0:  # where the next one starts is unknown
            return
        sizes = list(shapes[output][1])
        yield output, [start if a == axis else 0 for a in range(rank)], sizes
        start += sizes[axis]


def _slice(node: Wired, shapes: Sequence[tuple[str, tuple[int, ...]]], constants: Constants) -> _Blocks:
    shape = shapes[node.inputs[0]][1]
    given = [constants.get(i) if i >= 0 else None for i in node.inputs[1:]]
    if len(given) < 2 or any(i >= 0 and value is None for i, value in zip(node.inputs[1:], given, strict=True)):
        return
    starts, _ends, axes, steps = (None if v is None else v.tolist() for v in (*given, None, None)[:4])
    if starts is None or any(step != 1 for step in steps or ()):
        return
    begin = [0] * len(shape)
    for axis, start in zip(axes or range(len(starts)), starts, strict=True):
        size = shape[axis]
        begin[axis] = min(max(start + size if start < 0 else start, 0), size)
    yield node.outputs[0], begin, list(shapes[node.outputs[0]][1])


def _gather(node: Wired, shapes: Sequence[tuple[str, tuple[int, ...]]], constants: Constants) -> _Blocks:
    shape = shapes[node.inputs[0]][1]
    index = constants.get(node.inputs[1])
    if index is None or index.size != 1:
        return
    axis = _axis(node, len(shape))
    row = int(index.reshape(-1)[0]) % max(shape[axis], 1)
    starts = [row if a == axis else 0 for a in range(len(shape))]
    yield node.outputs[0], starts, [1 if a == axis else size for a, size in enumerate(shape)]


def join_pieces(draft: Draft) -> None:
    """Join outputs that are pieces of their node's input to it, and take such nodes out, where memory does not suffer."""
    if any(node.op_type in PIECES for node in draft.nodes):
        views = _PieceViews(draft.nodes, draft.tensors, draft.values(), StepMemory(draft))
        draft.nodes = [node for position, node in enumerate(draft.nodes) if not views.join(position, node)]


@dataclass(frozen=True, slots=True)
class _PieceViews:
    """Decides node by node."""

    nodes: Sequence[Wired]
    tensors: Tensors
    constants: Constants
    memory: StepMemory

    def join(self, position: int, node: Wired) -> bool:
        """Make the outputs of `node` views of its input, if they are pieces of it and memory does not suffer."""
        found = pieces(node, self.tensors.types, self.constants)
        if found is None or node.inputs[0] in self.constants:
            return False
        source = node.inputs[0]
        root, base = self.tensors.places.find(source)
        itemsize = self.tensors.nbytes[source] // max(1, math.prod(self.tensors.types[source][1]))
        offsets = {output: at * itemsize for output, at in found.items()}
        if not self._is_possible(root, base, offsets):
            return False
        own, whole = [self.tensors.places.find(output)[0] for output in offsets], self.memory.storage(root)
        if self.memory.replace(whole, own, position, position, longer=True) is None:
            return False
        self.memory.touched[position] = {}
        for output, offset in offsets.items():
            self.tensors.places.join(output, source, offset)
        return True

    def _is_possible(self, root: int, base: int, offsets: Mapping[int, int]) -> bool:
        """Whether pieces at these bytes are aligned, of a size and type that stays on the device, no state, read before
        their source is replaced, and no output of the step that would be a view of an input. Integers may be shapes,
        which a provider reads ahead of file order."""
        memory, never = self.memory, len(self.nodes) + 1
        whole = memory.storage(root)
        replaced = memory.replaced.get(whole, never) if root == whole else never
        for output, offset in offsets.items():
            own = self.tensors.places.find(output)[0]
            numbers = "float" in self.tensors.types[output][0]
            if not numbers or self.tensors.nbytes[output] < ALIGNMENT or (base + offset) % ALIGNMENT:
                return False
            if root in memory.given and own in memory.storages and memory.storages[own].end == memory.end:
                return False
            if own in memory.carried or own not in memory.storages or memory.storages[own].end >= replaced:
                return False
        return True
