"""Reads of a Concat's inputs after it, moved into its output, which holds the same bytes (see `planc.graph.concat`).

The inputs die in the Concat then, so that the step keeps one copy of them and lowering may make them inside the output.
Whoever reads one of them has to have the whole output in its place, so reads are moved only where neither the peak of
the step nor the bytes of its neediest operator rise, as with pieces. Where some input is read no more, the bytes held over
the step must not rise either: an output that lives on for a part of it would be swapped, or made again, in its stead. An
output whose every byte is read again only keeps the first of its inputs to die until the last of them does.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from planc.graph.concat import is_concat, piece_offsets
from planc.importer.draft import Draft, Tensors
from planc.importer.live_bytes import StepMemory
from planc.importer.wired import Wired


def read_inside(draft: Draft) -> None:
    """Let nodes that read an input of a Concat after it read the Concat's output instead, where memory does not suffer."""
    if any(is_concat(node.op_type, node.proto.domain) for node in draft.nodes):
        _ReadsInside(draft.nodes, draft.tensors, StepMemory(draft)).move()


@dataclass(frozen=True)
class _ReadsInside:
    """Decides Concat by Concat."""

    nodes: list[Wired]
    """In order; those whose inputs change are replaced."""
    tensors: Tensors
    memory: StepMemory

    @cached_property
    def computed(self) -> set[int]:
        """Storages that nodes make, but for state."""
        made = {self.tensors.places.find(out)[0] for node in self.nodes for out in node.outputs if out >= 0}
        return made - self.memory.carried

    def move(self) -> None:
        """Give the nodes their new inputs."""
        for position, node in enumerate(self.nodes):
            if is_concat(node.op_type, node.proto.domain):
                self._move(position, node)

    def _move(self, position: int, node: Wired) -> None:
        """Move the later reads of the inputs of the Concat `node` into its output, if memory does not suffer."""
        pieces = {
            piece: offset
            for piece, offset in self._pieces(node).items()
            if position < self.memory.storages[piece].end < self.memory.end
        }
        if not pieces:
            return
        whole, all_read, parts = node.outputs[0], len(pieces) == len(node.inputs), dict[int, int]()
        for reader in self.memory.replace(whole, list(pieces), position, position + 1, longer=all_read) or ():
            self._rewire(reader, whole, pieces, parts)

    def _pieces(self, node: Wired) -> dict[int, int]:
        """The storages that the inputs fill, with their first byte in the output; none where one is not like that."""
        tensors, types, output = [*node.inputs, *node.outputs], self.tensors.types, node.outputs[0]
        if min(tensors) < 0 or "float" not in types[output][0]:
            return {}
        places = [self.tensors.places.find(t) for t in tensors]
        storages = [root for root, _ in places]
        if len(set(storages)) < len(storages) or not self.computed.issuperset(storages):
            return {}
        sizes = [self.tensors.nbytes[t] for t in node.inputs]
        if places != [(s, 0) for s in storages] or sizes != [self.memory.storages[s].nbytes for s in storages[:-1]]:
            return {}
        offsets = piece_offsets([types[t][1] for t in node.inputs], types[output][1], sizes)
        return {} if offsets is None else dict(zip(storages[:-1], offsets, strict=True))

    def _rewire(self, reader: int, whole: int, pieces: Mapping[int, int], parts: dict[int, int]) -> None:
        """Let a node read tensors of `pieces` in `whole`; `parts` has for such tensors those that stand for them."""
        node = self.nodes[reader]
        for tensor in [t for t in node.inputs if t >= 0 and t not in parts]:
            root, offset = self.tensors.places.find(tensor)
            if root in pieces and tensor not in parts:
                parts[tensor] = self.tensors.part(tensor, whole, pieces[root] + offset)
        self.nodes[reader] = replace(node, inputs=tuple(parts.get(t, t) for t in node.inputs))
