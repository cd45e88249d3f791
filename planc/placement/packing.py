"""Packing: offsets of buffers in one slab, so that buffers alive at the same time share no byte.

This is dynamic storage allocation (Garey & Johnson SR2, NP-hard): every buffer is a rectangle whose time extent is
fixed and whose offset is free; the height of the packing is the highest byte used.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import lcm
from typing import Literal

import numpy as np
import numpy.typing as npt

from planc.errors import PlancError
from planc.units import align_up

Status = Literal["optimal", "feasible", "infeasible", "timeout"]


class PackingError(PlancError):
    """The buffers or the options given to the packer are malformed."""


@dataclass(frozen=True, slots=True)
class Buffer:
    """`size` bytes needed at the half-open integer time intervals `lifetimes` (sorted, disjoint, each non-empty).

    Its offset will be a multiple of `alignment` bytes. Several intervals are a lifetime with gaps: in a gap other
    buffers may use the bytes.
    """

    id: str
    size: int
    lifetimes: tuple[tuple[int, int], ...]
    alignment: int = 1


@dataclass(frozen=True)
class Packing:
    """Offsets in bytes, in the order of the buffers, and what is known about them.

    `height` is the highest byte used; no packing can be lower than `lower_bound`. `status`: `optimal` when the two are
    equal, `feasible` otherwise; with a capacity that was not met, `infeasible` when no packing can meet it and
    `timeout` when the time limit left that open (the offsets are then the best packing found, above the capacity).
    """

    offsets: tuple[int, ...]
    height: int
    lower_bound: int
    status: Status
    solve_s: float


def pack(buffers: Sequence[Buffer], *, capacity: int | None = None, time_limit: float = 10.0, seed: int = 0) -> Packing:
    """Pack `buffers` as low as possible, or, with a `capacity` in bytes, low enough: fitting it ends the search.

    Stops at the lower bound (the maximum load over time) or after `time_limit` seconds.
    Raises PackingError for a negative size, a bad alignment, or lifetimes that are empty, unsorted or overlapping.
    """
    started = time.monotonic()
    for buffer in buffers:
        _check(buffer)
    bound = _max_load(buffers)
    target = bound if capacity is None else max(bound, capacity)
    offsets, height = _greedy(buffers, target)
    if height == bound:
        status: Status = "optimal"
    elif capacity is None or height <= capacity:
        status = "feasible"
    else:
        status = "infeasible" if bound > capacity else "timeout"
    if capacity is not None and bound > capacity:
        status = "infeasible"
    return Packing(offsets, height, bound, status, time.monotonic() - started)


def _check(buffer: Buffer) -> None:
    if buffer.size < 0 or buffer.alignment < 1:
        raise PackingError(
            f"buffer {buffer.id!r}: size {buffer.size} and alignment {buffer.alignment}; "
            "expected a size of at least 0 and an alignment of at least 1 byte"
        )
    previous = None
    for lower, upper in buffer.lifetimes:
        if lower >= upper or (previous is not None and lower < previous):
            raise PackingError(
                f"buffer {buffer.id!r}: lifetime [{lower}, {upper}); expected non-empty, sorted, disjoint intervals"
            )
        previous = upper


def _max_load(buffers: Sequence[Buffer]) -> int:
    """Maximum over time of the sum of the live buffers' sizes (bytes): a lower bound of every packing."""
    rows = [(lower, upper, b.size) for b in buffers for lower, upper in b.lifetimes]
    if not rows:
        return 0
    lower, upper, size = np.array(rows, dtype=np.int64).T
    times = np.concatenate([upper, lower])
    deltas = np.concatenate([-size, size])
    # At equal times the releases come first, because lifetimes are half-open.
    order = np.lexsort((deltas > 0, times))
    loads: npt.NDArray[np.int64] = np.cumsum(deltas[order])
    return max(int(loads.max()), 0)


def _greedy(buffers: Sequence[Buffer], target: int) -> tuple[tuple[int, ...], int]:
    from omnimalloc.allocators import BestFitAllocator, GreedyBySizeAllocator
    from omnimalloc.primitives import Allocation

    alignment = lcm(*(b.alignment for b in buffers)) if buffers else 1
    live = [i for i, b in enumerate(buffers) if b.size and b.lifetimes]
    requests = tuple(
        Allocation(
            id=i,
            size=align_up(buffers[i].size, alignment),
            start=buffers[i].lifetimes[0][0],
            end=buffers[i].lifetimes[-1][1],
        )
        for i in live
    )
    best, best_height = [0] * len(buffers), 0
    for attempt, allocator in enumerate((GreedyBySizeAllocator(), BestFitAllocator())):
        offsets = [0] * len(buffers)
        for placed in allocator.allocate(requests):
            offsets[placed.id] = placed.offset
        height = max((offsets[i] + buffers[i].size for i in live), default=0)
        if attempt == 0 or height < best_height:
            best, best_height = offsets, height
        if best_height <= target:
            break
    return tuple(best), best_height
