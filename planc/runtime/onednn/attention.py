"""Attention by oneDNN: batches or heads are dealt out to threads, each of which goes through its share in pieces whose
scores fit into a core's cache. No matrix of probabilities leaves it: the gradient makes them again from queries and keys.

Operands are read and written as they lie, so that heads need not be moved to the front.
"""

import ctypes
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from planc.kernels.attention import row_statistics
from planc.kernels.device import AttentionKernel, Strided
from planc.runtime.onednn.chain import Chained, chain
from planc.runtime.onednn.constants import DTYPES, Algorithm, Prop, Role
from planc.runtime.onednn.library import Handle, Library
from planc.runtime.onednn.parts import Parts, ranges
from planc.runtime.onednn.program import Memory, Program, refuse_reference

_FLOAT = TensorProto.FLOAT

_PIECE = 1 << 16
"""Scores of a piece, about: 256 KiB of them, half of a core's cache or less."""


@dataclass(frozen=True)
class _Piece:
    """Some batches, and some heads of each."""

    batches: range
    heads: range

    @property
    def counts(self) -> tuple[int, int]:
        return len(self.batches), len(self.heads)


def attention(library: Library, kernel: AttentionKernel) -> Parts:
    """The programs of y and statistics, or of dq, dk and dv. Raises DeviceError where oneDNN has none."""
    batch, heads, rows, _ = kernel.q.dims
    scores = rows * kernel.k.dims[2]
    with library.one_thread():
        if batch >= heads:
            shares = [_Piece(part, range(heads)) for part in ranges(batch, heads * scores)]
        else:
            shares = [_Piece(range(batch), part) for part in ranges(heads, batch * scores)]
        return Parts(library, [_share(library, kernel, share) for share in shares])


def _share(library: Library, kernel: AttentionKernel, share: _Piece) -> "Program | _Forward":
    """The program of one thread."""
    program, pieces = Program(library), list(_pieces(kernel, share))
    work = _Work(library, kernel, program)
    if kernel.gradient:
        work.gradient(pieces)
        return program
    work.forward(pieces)
    return _Forward(program, kernel, pieces)


def _pieces(kernel: AttentionKernel, share: _Piece) -> Iterator[_Piece]:
    """The share cut so that scores stay in the cache, whole batches at once where they do."""
    scores = kernel.q.dims[2] * kernel.k.dims[2]
    heads = max(1, min(len(share.heads), _PIECE // scores))
    batches = max(1, min(len(share.batches), _PIECE // (scores * len(share.heads))))
    # the library stretches a bias along one axis alone
    uneven = kernel.bias is not None and max(kernel.bias.dims[:2]) > 1
    if uneven or heads < len(share.heads):
        batches = 1
    for batch in _cut(share.batches, batches):
        for head in _cut(share.heads, heads):
            yield _Piece(batch, head)


def _cut(whole: range, size: int) -> Iterator[range]:
    for start in range(whole.start, whole.stop, size):
        yield range(start, min(start + size, whole.stop))


class _Forward:
    """The forward pass of a share: the statistics follow from the largest score of each row and the sum of exponentials."""

    def __init__(self, program: Program, kernel: AttentionKernel, pieces: Sequence[_Piece]) -> None:
        self.program, self.kernel, self.pieces = program, kernel, pieces
        self.numbers = sum(math.prod(piece.counts) for piece in pieces) * kernel.q.dims[2]

    @property
    def workspace(self) -> int:
        """That of the program, behind two numbers for each row."""
        return self.program.workspace + 8 * self.numbers

    def run(self, addresses: Sequence[int]) -> None:
        """Compute from the addresses of operands and workspace."""
        self.program.run([*addresses, addresses[-1] + 8 * self.numbers])
        highest, total = _vector(addresses[-1], self.numbers), _vector(addresses[-1] + 4 * self.numbers, self.numbers)
        batch, heads, rows, _ = self.kernel.q.dims
        to = _vector(addresses[4 + (self.kernel.bias is not None)], batch * heads * rows).reshape(batch, heads, rows)
        made, begin = row_statistics(highest, total), 0
        for piece in self.pieces:
            size = math.prod(piece.counts) * rows
            place = to[piece.batches.start : piece.batches.stop, piece.heads.start : piece.heads.stop]
            place[...] = made[begin : begin + size].reshape(place.shape)
            begin += size


def _vector(address: int, size: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.ctypeslib.as_array((ctypes.c_float * size).from_address(address))


@dataclass(frozen=True)
class _Work:
    """Adds the primitives of pieces, which use the same workspace one after the other."""

    library: Library
    kernel: AttentionKernel
    program: Program

    def forward(self, pieces: Sequence[_Piece]) -> None:
        """Inputs q, k, v, [bias]; outputs y and statistics, which come later. Rows' two numbers lie behind the shared
        workspace."""
        n = 3 + (self.kernel.bias is not None)
        numbers, begin = sum(map(self._rows, pieces)), 0
        scores, ones = self._inside(pieces, self.kernel.k.dims[2]), self._ones()
        for piece in pieces:
            size = self._rows(piece)
            made = self._scores(piece, scores)
            top, total = (self._column(piece, n + 3, 4 * at) for at in (begin, numbers + begin))
            self._highest(piece, made, top)
            rows = self._flat(piece, scores)
            chain(self.program, rows, [Chained(Algorithm.SUB, top), Chained(Algorithm.EXP)], rows)
            self._product(rows, ones, total)
            chain(self.program, rows, [Chained(Algorithm.DIV, total)], rows)
            self._product(made, self._operand(piece, self.kernel.k, 2), self._operand(piece, self.kernel.q, n))
            begin += size

    def gradient(self, pieces: Sequence[_Piece]) -> None:
        """Inputs dy, q, k, v, y, statistics, [bias]; outputs dq, dk, dv. With probabilities P and slopes dP = dY V',
        dS = scale (P dP - P sum(P dP))."""
        kernel, n = self.kernel, 6 + (self.kernel.bias is not None)
        first, second, sums = (self._inside(pieces, columns) for columns in (kernel.k.dims[2], kernel.k.dims[2], 1))
        ones = self._ones()
        for piece in pieces:
            dy, q, dq = (self._operand(piece, kernel.q, position) for position in (0, 1, n))
            k, dk, dv = (self._operand(piece, kernel.k, position) for position in (2, n + 1, n + 2))
            p = self._scores(piece, first)
            self._softmax(p)
            self._product(self._turned(piece, first), dy, dv)
            slopes = self._square(piece, second)
            self._product(dy, self._turned_operand(piece, kernel.k, 3), slopes)
            rows, pp, total = self._flat(piece, second), self._flat(piece, first), self._view_column(piece, sums)
            chain(self.program, rows, [Chained(Algorithm.MUL, pp)], rows)
            self._product(rows, ones, total)
            off = [Chained(Algorithm.MUL, total), Chained(Algorithm.LINEAR, numbers=(-1, 0)),
                   Chained(Algorithm.ADD, rows), Chained(Algorithm.LINEAR, numbers=(kernel.scale, 0))]  # fmt: skip
            chain(self.program, pp, off, pp)
            self._product(p, k, dq)
            self._product(self._turned(piece, first), q, dk)

    # --- tensors

    def _kind(self, dims: Sequence[int], strides: Sequence[int]) -> Handle:
        return self.library.strided(dims, strides, DTYPES[_FLOAT])

    def _begin(self, piece: _Piece, tensor: Strided) -> int:
        """Bytes before a piece of a tensor [B, H, ...]; axes of one are stretched."""
        starts = zip(tensor.dims, tensor.strides, (piece.batches.start, piece.heads.start), strict=False)
        return 4 * sum(stride * start for size, stride, start in starts if size > 1)

    def _operand(self, piece: _Piece, tensor: Strided, position: int) -> Memory:
        """The rows [B, H, S, D] of a piece."""
        dims = (*piece.counts, *tensor.dims[2:])
        return self.program.operand(Strided(dims, tensor.strides, _FLOAT), position, self._begin(piece, tensor))

    def _turned_operand(self, piece: _Piece, tensor: Strided, position: int) -> Memory:
        """The same as columns [B, H, D, S]."""
        b, h, s, d = tensor.strides
        turned = Strided((*piece.counts, tensor.dims[3], tensor.dims[2]), (b, h, d, s), _FLOAT)
        return self.program.operand(turned, position, self._begin(piece, tensor))

    def _inside(self, pieces: Sequence[_Piece], columns: int) -> Memory:
        """Room for so many numbers for each row of any piece."""
        return self.program.inside(self._kind((max(map(self._rows, pieces)) * columns,), (1,)))

    def _ones(self) -> Memory:
        """A column whose product with scores is the sum of each row: a fifth of a reduction's time."""
        columns = self.kernel.k.dims[2]
        return self.program.constant((ctypes.c_float * columns)(*[1.0] * columns), (columns, 1))

    def _view(self, memory: Memory, dims: tuple[int, ...]) -> Memory:
        return self.program.view(memory, self._kind(dims, Strided.of(dims, _FLOAT).strides))

    def _square(self, piece: _Piece, room: Memory) -> Memory:
        """Scores [B, H, S, T]."""
        return self._view(room, (*piece.counts, self.kernel.q.dims[2], self.kernel.k.dims[2]))

    def _turned(self, piece: _Piece, room: Memory) -> Memory:
        """Scores as [B, H, T, S]."""
        rows, columns = self.kernel.q.dims[2], self.kernel.k.dims[2]
        kind = self._kind(
            (*piece.counts, columns, rows), (piece.counts[1] * rows * columns, rows * columns, 1, columns)
        )
        return self.program.view(room, kind)

    def _flat(self, piece: _Piece, room: Memory) -> Memory:
        """Scores as a matrix."""
        return self._view(room, (self._rows(piece), self.kernel.k.dims[2]))

    def _rows(self, piece: _Piece) -> int:
        return math.prod(piece.counts) * self.kernel.q.dims[2]

    def _view_column(self, piece: _Piece, room: Memory) -> Memory:
        return self._view(room, (self._rows(piece), 1))

    def _column(self, piece: _Piece, position: int, begin: int) -> Memory:
        """A number for each row among the operands."""
        return self.program.operand(Strided((self._rows(piece), 1), (1, 1), _FLOAT), position, begin)

    # --- primitives

    def _scores(self, piece: _Piece, room: Memory) -> Memory:
        """scale Q K', with what is added: the bias, and minus infinity where a mask hides."""
        kernel, gradient = self.kernel, self.kernel.gradient
        added = []
        if kernel.bias is not None:
            dims = tuple(n if size > 1 else 1 for n, size in zip(piece.counts, kernel.bias.dims, strict=False))
            part = Strided((*dims, *kernel.bias.dims[2:]), kernel.bias.strides, _FLOAT)
            added.append(self.program.operand(part, 6 if gradient else 3, self._begin(piece, kernel.bias)))
        if kernel.causal:
            rows, columns = kernel.q.dims[2], kernel.k.dims[2]
            hidden = np.triu(np.full((rows, columns), -math.inf, np.float32), 1).ravel()
            held = (ctypes.c_float * hidden.size).from_buffer_copy(hidden.tobytes())
            added.append(self.program.constant(held, (1, 1, rows, columns)))
        made = self._square(piece, room)
        self._product(
            self._operand(piece, kernel.q, 1 if gradient else 0),
            self._turned_operand(piece, kernel.k, 2 if gradient else 1), made,
        )  # fmt: skip
        flat = self._view(made, (self._rows(piece) * kernel.k.dims[2],))
        chain(self.program, flat, [Chained(Algorithm.MUL, self.program.number(kernel.scale, 1))], flat)
        for other in added:  # apart from the product, whose own chain takes five times as long for it
            chain(self.program, made, [Chained(Algorithm.ADD, other)], made)
        return made

    def _product(self, a: Memory, b: Memory, to: Memory) -> None:
        library = self.library
        description = library.made(
            "dnnl_matmul_primitive_desc_create", library.engine, a.kind, b.kind, None, to.kind, library.attributes
        )
        refuse_reference(library, description, "a product of attention")
        self.program.add(description, {Role.SOURCE: a, Role.WEIGHTS: b, Role.TARGET: to})

    def _softmax(self, scores: Memory) -> None:
        """Over the last axis, in place."""
        description = self.library.made(
            "dnnl_softmax_forward_primitive_desc_create", self.library.engine, ctypes.c_int(Prop.FORWARD_TRAINING),
            ctypes.c_int(Algorithm.SOFTMAX), scores.kind, scores.kind, ctypes.c_int(3), self.library.attributes,
        )  # fmt: skip
        refuse_reference(self.library, description, "a softmax")
        self.program.add(description, {Role.SOURCE: scores, Role.TARGET: scores})

    def _highest(self, piece: _Piece, scores: Memory, to: Memory) -> None:
        """The largest of each row."""
        flat = self._flat(piece, scores)
        description = self.library.made(
            "dnnl_reduction_primitive_desc_create", self.library.engine, ctypes.c_int(Algorithm.REDUCE_MAX), flat.kind,
            to.kind, ctypes.c_float(0), ctypes.c_float(0), self.library.attributes,
        )  # fmt: skip
        refuse_reference(self.library, description, "a maximum of rows")
        self.program.add(description, {Role.SOURCE: flat, Role.TARGET: to})
