"""Tensor → (storage, byte offset): union-find in which a tensor lies some bytes behind the start of another.

A view shares its source's storage. One of the same bytes (Reshape) lies at offset 0, one of a contiguous piece (Split,
Slice, Gather of rows) at the piece's offset. Everything that knows no tensors goes on speaking of storages alone:

- lifetimes: a read of a piece is a read of the storage, which lives until the last of them; a swap or a recomputation
  moves or makes a storage whole. So a piece is made a view only where that raises no peak (`planc.importer.piece_views`).
- in place: a result may take the bytes of a view only where the view begins its storage (`write_over_candidates`).
- the verifier follows storages, which operators write whole and read in part.
- plan, packing and report have storages; the offset inside is the graph's alone, so the plan's format is unchanged.
- runtime: a port is bound at residency + `Tensor.offset`. Inside a segment a piece is an input of its own: ONNX Runtime
  runs operators in file order (`tests/differential/test_execution_order.py`), on which every planned address relies.
- every offset is a multiple of `planc.graph.footprint.ALIGNMENT`, so that no kernel sees an address of another kind than
  it sees anyhow: on the CPU elements would do, on CUDA vectorised loads want 16 bytes.
"""


class Places:
    """Grows by `add` and `join`; tensors are numbered from 0."""

    def __init__(self) -> None:
        self.parent: list[int] = []
        self.shift: list[int] = []

    def add(self) -> None:
        """One more tensor, in a storage of its own."""
        self.parent.append(len(self.parent))
        self.shift.append(0)

    def find(self, at: int) -> tuple[int, int]:
        """The tensor at the start of the storage that `at` lies in, and the bytes from there to `at`."""
        if self.parent[at] == at:
            return at, 0
        path, total = [], 0
        while self.parent[at] != at:
            path.append(at)
            at = self.parent[at]
        for node in reversed(path):
            total += self.shift[node]
            self.parent[node], self.shift[node] = at, total
        return at, total

    def join(self, tensor: int, source: int, offset: int = 0) -> None:
        """Let the storage of `tensor` lie `offset` bytes behind the start of `source`; `tensor` starts its storage."""
        child, root = self.find(tensor)[0], self.find(source)
        if child != root[0]:
            self.parent[child], self.shift[child] = root[0], root[1] + offset

    def roots(self) -> list[int]:
        """For each tensor the one at the start of its storage."""
        return [at if parent == at else self.find(at)[0] for at, parent in enumerate(self.parent)]
