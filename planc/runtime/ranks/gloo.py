"""Exchanges with the other ranks through host memory, by `torch.distributed`'s gloo.

Each rank sums one share of the elements in the order of the ranks, ((g0 + g1) + g2) + ..., as one process does that runs
all micro-batches, so that the bits do not depend on how messages travel. Two messages of (N - 1) / N of the bytes leave
each rank, as in a ring. A sum for one rank alone needs the first of them, and what one rank gives to all the second.
"""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from itertools import zip_longest
from typing import Any

import numpy as np

from planc.enums import ExchangeKind
from planc.runtime.ranks.group import RankGroup

_CHUNK_BYTES = 8 << 20
"""Exchanged at once: beyond that, longer messages are not faster, and need more memory beside the plan."""

Array = np.ndarray[Any, Any]


class Gloo:
    """A connection with the other ranks, each of which makes it under the same name."""

    def __init__(self, group: RankGroup, name: str) -> None:
        import torch
        import torch.distributed as dist

        self._torch, self._group = torch, group
        store = dist.PrefixStore(name, group.store)
        with group.failing():
            try:
                self._gloo: Any = dist.ProcessGroupGloo(
                    store, group.rank, group.size, timedelta(seconds=group.timeout_s)
                )
            except Exception as error:  # torch has types of its own
                raise group.lost(error) from error

    def close(self) -> None:
        """End the connections: whoever still waits for this rank hears of it."""
        self._gloo = None

    def send(self, array: Array, rank: int) -> None:
        """Send a contiguous array to a rank, which receives one of that size. Raises RankError."""
        self._call("send", [array], rank, 0)

    def receive(self, array: Array, rank: int) -> None:
        """Fill a contiguous array with what a rank sends. Raises RankError."""
        self._call("recv", [array], rank, 0)

    def _call(self, name: str, *arguments: Any) -> None:
        try:
            getattr(self._gloo, name)(*map(self._tensors, arguments)).wait()
        except Exception as error:  # torch has types of its own
            raise self._group.lost(error) from error

    def _tensors(self, argument: Any) -> Any:
        """Arrays as torch's tensors of bytes, alone or in a list; anything else as it is."""
        if isinstance(argument, list):
            return [self._tensors(each) for each in argument]
        if not isinstance(argument, np.ndarray):
            return argument
        return self._torch.from_numpy(argument.reshape(-1).view(np.uint8))


class GlooSums(Gloo):
    """Exchanges arrays in place; every rank calls in the same order with arrays of the same sizes."""

    def __init__(self, group: RankGroup, name: str) -> None:
        super().__init__(group, name)
        self._send = np.empty(_CHUNK_BYTES, np.uint8)
        self._received = np.empty(_CHUNK_BYTES, np.uint8)

    @property
    def memory_bytes(self) -> int:
        """What messages are put together in."""
        return self._send.nbytes + self._received.nbytes

    def exchange(self, kind: ExchangeKind, arrays: Sequence[Array], roots: Sequence[int]) -> None:
        """What a plan's exchange says, in the bytes of the arrays. Raises RankError naming the rank that failed."""
        if kind is ExchangeKind.ALL_REDUCE:
            self.sum(arrays)
        elif kind is ExchangeKind.REDUCE:
            self.reduce(arrays, roots)
        else:
            self.broadcast(arrays, roots)

    def sum(self, arrays: Sequence[Array]) -> None:
        """Replace contiguous arrays by their sums over all ranks. Raises RankError naming the rank that failed."""
        for dtype in dict.fromkeys(array.dtype for array in arrays):
            flat = [array.reshape(-1) for array in arrays if array.dtype == dtype]
            for pieces in _chunks(flat, _CHUNK_BYTES // dtype.itemsize // self._group.size * self._group.size):
                self._sum(pieces, dtype)

    def _sum(self, pieces: Sequence[Array], dtype: np.dtype[Any]) -> None:
        count, size = sum(piece.size for piece in pieces), self._group.size
        share = -(-count // size)
        send, received = (b.view(dtype)[: share * size] for b in (self._send, self._received))
        np.concatenate(pieces, out=send[:count])
        send[count:] = 0
        self._call("alltoall_base", received, send, [], [])
        self._call("_allgather_base", send, _summed(received.reshape(size, share)))
        _spread(send, pieces)

    # --- with a root

    def reduce(self, arrays: Sequence[Array], roots: Sequence[int]) -> None:
        """Replace each array by its sum over all ranks on its root alone; elsewhere it stays as it is."""
        for dtype, pieces in self._rounds(arrays, roots):
            self._reduce(pieces, dtype)

    def _reduce(self, pieces: Sequence[Sequence[Array]], dtype: np.dtype[Any]) -> None:
        """Each rank gets from all their elements of what it is the root of."""
        counts, rank, size = _counts(pieces), self._group.rank, self._group.size
        send, received = self._send.view(dtype)[: sum(counts)], self._received.view(dtype)[: counts[rank] * size]
        np.concatenate([piece for of_root in pieces for piece in of_root], out=send)
        widths = [count * dtype.itemsize for count in counts]
        self._call("alltoall_base", received, send, [widths[rank]] * size, widths)
        _spread(_summed(received.reshape(size, counts[rank])), pieces[rank])

    def broadcast(self, arrays: Sequence[Array], roots: Sequence[int]) -> None:
        """Replace each array by that of its root."""
        for dtype, pieces in self._rounds(arrays, roots):
            self._broadcast(pieces, dtype)

    def _broadcast(self, pieces: Sequence[Sequence[Array]], dtype: np.dtype[Any]) -> None:
        """Each rank sends to all its elements of what it is the root of."""
        counts, rank, size = _counts(pieces), self._group.rank, self._group.size
        send, received = self._send.view(dtype)[: counts[rank] * size], self._received.view(dtype)[: sum(counts)]
        rows = send.reshape(size, counts[rank])
        if counts[rank]:
            np.concatenate(pieces[rank], out=rows[0])
            rows[1:] = rows[0]
        widths = [count * dtype.itemsize for count in counts]
        self._call("alltoall_base", received, send, widths, [widths[rank]] * size)
        _spread(received, [piece for of_root in pieces for piece in of_root])

    def _rounds(
        self, arrays: Sequence[Array], roots: Sequence[int]
    ) -> Iterator[tuple[np.dtype[Any], list[list[Array]]]]:
        """What is exchanged at once, by root: flat pieces of arrays of one type, of each root as many elements as fit."""
        for dtype in dict.fromkeys(array.dtype for array in arrays):
            of_root = [list[Array]() for _ in range(self._group.size)]
            for array, root in zip(arrays, roots, strict=True):
                if array.dtype == dtype:
                    of_root[root].append(array.reshape(-1))
            limit = _CHUNK_BYTES // dtype.itemsize // self._group.size
            for pieces in zip_longest(*(_chunks(mine, limit) for mine in of_root), fillvalue=list[Array]()):
                yield dtype, list(pieces)


def _counts(pieces: Sequence[Sequence[Array]]) -> list[int]:
    """How many elements each root has."""
    return [sum(piece.size for piece in of_root) for of_root in pieces]


def _summed(rows: Array) -> Array:
    """The sum of the rows in their order, in the first of them."""
    total: Array = rows[0]
    for row in rows[1:]:
        np.add(total, row, out=total)
    return total


def _spread(flat: Array, pieces: Sequence[Array]) -> None:
    """Fill the pieces, in order, with the elements of `flat`."""
    at = 0
    for piece in pieces:
        piece[...] = flat[at : at + piece.size]
        at += piece.size


def _chunks(arrays: Sequence[Array], limit: int) -> Iterator[list[Array]]:
    """The arrays in order, cut into lists of at most `limit` elements."""
    pieces: list[Array] = []
    room = limit
    for array in arrays:
        at = 0
        while at < array.size:
            pieces.append(array[at : at + room])
            at += pieces[-1].size
            room -= pieces[-1].size
            if not room:
                yield pieces
                pieces, room = [], limit
    if pieces:
        yield pieces
