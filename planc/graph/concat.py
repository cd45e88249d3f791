"""Concat by placement: inputs that lie inside the output when the operator comes to run, so that nothing has to run.

Where a Concat's inputs are contiguous pieces of its output, each may be made at its bytes of the output. Who decides what:

- the importer lets whoever reads an input after the Concat read the output there (`planc.importer.concat_reads`), so
  that the inputs die in the Concat and the bytes are kept once. That is a matter of the graph, and all that solvers see
  of it.
- lowering gives the inputs of one execution addresses inside the output where that raises no load
  (`planc.lowering.placed_concats`). Inputs stay storages with residencies of their own: each is written whole by one
  operator, swapped, made again and verified as ever, and the output's residency begins at the Concat, over theirs, as
  with an operator in place. So no storage is ever written in part, and a piece that is lost (made elsewhere,
  overwritten, not yet there) is a residency that lies elsewhere, is overwritten or is not yet there. The other form,
  one storage with several writers, would need values with several producers in every solver, and versions of them in
  the verifier.
- plan: nothing is marked. A Concat whose inputs all lie at their places is one that does not run; any other copies.
- the verifier allows an output over its inputs where all of them lie at their places, and in no other way.
- runtime: leaves such an operator out of its segment; a segment of nothing else has no session.
"""

import math
from collections.abc import Callable, Sequence
from itertools import accumulate

from planc.graph.graph import Graph, Role, Tensor
from planc.units import ALIGNMENT


def is_concat(op_type: str, domain: str) -> bool:
    """Whether it is the standard operator."""
    return op_type == "Concat" and domain in ("", "ai.onnx")


def piece_offsets(shapes: Sequence[Sequence[int]], whole: Sequence[int], nbytes: Sequence[int]) -> list[int] | None:
    """For each input of a Concat, of these shapes and sizes (bytes), its first byte in the output of shape `whole`; None
    where one is not a contiguous piece at a multiple of the alignment, or empty.

    Pieces are contiguous where all dimensions before the axis are 1. The axis is the one along which shapes differ.
    """
    axis = next((a for a, size in enumerate(whole) if size != shapes[0][a]), None)
    if axis is None or math.prod(whole[:axis]) != 1 or min(nbytes) == 0:
        return None
    offsets = [0, *accumulate(nbytes[:-1])]
    return None if any(offset % ALIGNMENT for offset in offsets) else offsets


def pieces_of(graph: Graph, op_index: int) -> tuple[tuple[int, int], ...] | None:
    """The storages that a Concat may find inside its output, each with its first byte there, in the order of its inputs.

    None for any other operator, and where an input cannot be made there: one that is not computed in the step, is given
    twice, lies in another tensor, or is left to the caller. Integers may be shapes, which a provider wants elsewhere.
    """
    op = graph.ops[op_index]
    if not is_concat(op.op_type, op.domain) or min(op.inputs + op.outputs, default=-1) < 0:
        return None
    whole, tensors = graph.tensors[op.outputs[0]], [graph.tensors[t] for t in op.inputs]
    storages = [t.storage for t in tensors]
    alone = len({*storages, whole.storage}) == len(storages) + 1 and graph.output_storages.isdisjoint(storages)
    if not alone or "float" not in whole.dtype or not all(_fills_storage(graph, t) for t in (whole, *tensors)):
        return None
    offsets = piece_offsets([t.shape for t in tensors], whole.shape, [t.nbytes for t in tensors])
    return None if offsets is None else tuple(zip(storages, offsets, strict=True))


def _fills_storage(graph: Graph, tensor: Tensor) -> bool:
    """Whether a tensor is the whole of a storage that is computed in the step."""
    storage = graph.storages[tensor.storage]
    return storage.role is Role.COMPUTED and (tensor.offset, tensor.nbytes) == (0, storage.nbytes)


def is_placed(graph: Graph, op_index: int, address: Callable[[int], int | None]) -> bool:
    """Whether a Concat has nothing to do, because each of its inputs lies at its place in the output.

    `address` has for a storage where it lies when the operator runs, None where it does not.
    """
    pieces = pieces_of(graph, op_index)
    if pieces is None:
        return False
    start = address(graph.tensors[graph.ops[op_index].outputs[0]].storage)
    return start is not None and all(address(storage) == start + offset for storage, offset in pieces)
