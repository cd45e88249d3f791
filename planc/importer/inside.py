"""Reads of a Concat's inputs after it, moved into its output, which holds the same bytes (see `planc.graph.concat`).

The inputs die in the Concat then, so that the step keeps one copy of them and lowering may make them inside the output.
Whoever reads one of them has to have the whole output in its place, so reads are moved only where neither the peak of
the step nor the bytes of its neediest operator rise, as with pieces. Where some input is read no more, the bytes held over
the step must not rise either: an output that lives on for a part of it would be swapped, or made again, in its stead. An
output whose every byte is read again only keeps the first of its inputs to die until the last of them does.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from planc.graph.concat import is_concat, piece_offsets
from planc.importer.memory import StepMemory
from planc.importer.order import Wired
from planc.importer.places import Places


class ReadsInside:
    """Decides Concat by Concat; `moved` returns the nodes with their new inputs."""

    def __init__(
        self,
        nodes: Sequence[Wired],
        places: Places,
        types: Sequence[tuple[str, tuple[int, ...]]],
        nbytes: Sequence[int],
        memory: StepMemory,
        part: Callable[[int, int, int], int],
    ) -> None:
        """`part` makes a tensor like another one, so many bytes behind the start of a third."""
        self.nodes, self.places, self.types, self.nbytes = list(nodes), places, types, nbytes
        self.memory, self.part = memory, part
        made = {places.find(out)[0] for node in nodes for out in node.outputs if out >= 0}
        self.computed = made - memory.carried

    def moved(self) -> list[Wired]:
        """The nodes, in their order."""
        for position, node in enumerate(self.nodes):
            if is_concat(node.op_type, node.proto.domain):
                self._move(position, node)
        return self.nodes

    def _move(self, position: int, node: Wired) -> None:
        """Move the later reads of the inputs of the Concat `node` into its output, if memory does not suffer."""
        pieces = {
            piece: offset
            for piece, offset in self._pieces(node).items()
            if position < self.memory.storages[piece].end < self.memory.end
        }
        all_read = len(pieces) == len(node.inputs)
        if not pieces or not self._pays(position, node.outputs[0], list(pieces), all_read):
            return
        late: dict[int, None] = {}
        for piece in pieces:
            late |= dict.fromkeys(r for r in self.memory.readers[piece] if r > position)
            self.memory.readers[piece] = [r for r in self.memory.readers[piece] if r <= position]
        parts: dict[int, int] = {}
        for reader in sorted(late):
            self.memory.move(reader, node.outputs[0], list(pieces))
            self._rewire(reader, node.outputs[0], pieces, parts)

    def _pieces(self, node: Wired) -> dict[int, int]:
        """The storages that the inputs fill, with their first byte in the output; none where one is not like that."""
        tensors, types, output = [*node.inputs, *node.outputs], self.types, node.outputs[0]
        if min(tensors) < 0 or "float" not in types[output][0]:
            return {}
        places = [self.places.find(t) for t in tensors]
        storages = [root for root, _ in places]
        if len(set(storages)) < len(storages) or not self.computed.issuperset(storages):
            return {}
        sizes = [self.nbytes[t] for t in node.inputs]
        if places != [(s, 0) for s in storages] or sizes != [self.memory.storages[s].nbytes for s in storages[:-1]]:
            return {}
        offsets = piece_offsets([types[t][1] for t in node.inputs], types[output][1], sizes)
        return {} if offsets is None else dict(zip(storages[:-1], offsets, strict=True))

    def _pays(self, position: int, whole: int, pieces: Sequence[int], all_read: bool) -> bool:
        """Whether peak, neediest operator and, unless the whole is read, the bytes held over the step stay as they are;
        takes the change over if so."""
        memory, storages = self.memory, self.memory.storages
        output, live = storages[whole], memory.live.copy()
        end = max([output.end, *(storages[piece].end for piece in pieces)])
        for piece in pieces:
            live[position + 1 : storages[piece].end + 1] -= storages[piece].nbytes
        live[output.end + 1 : end + 1] += output.nbytes
        readers = dict.fromkeys(r for piece in pieces for r in memory.readers[piece] if r > position)
        neediest = max(memory.need_with(reader, whole, pieces) for reader in readers)
        if int(live.max()) > memory.peak or neediest > memory.neediest:
            return False
        if not all_read and live.sum() > memory.live.sum():
            return False
        memory.live, output.end = live, end
        for piece in pieces:
            storages[piece].end = position
        return True

    def _rewire(self, reader: int, whole: int, pieces: Mapping[int, int], parts: dict[int, int]) -> None:
        """Let a node read tensors of `pieces` in `whole`; `parts` has for such tensors those that stand for them."""
        node = self.nodes[reader]
        for tensor in [t for t in node.inputs if t >= 0 and t not in parts]:
            root, offset = self.places.find(tensor)
            if root in pieces and tensor not in parts:
                parts[tensor] = self.part(tensor, whole, pieces[root] + offset)
        self.nodes[reader] = replace(node, inputs=tuple(parts.get(t, t) for t in node.inputs))
