"""Packing: offsets of buffers in one slab, so that buffers alive at the same time share no byte.

This is dynamic storage allocation (Garey & Johnson SR2, NP-hard): every buffer is a rectangle whose time extent is
fixed and whose offset is free; the height of the packing is the highest byte used.
"""

import math
import os
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from planc.clock import WALL, StoppableClock
from planc.enums import Status
from planc.errors import InfeasibleBudgetError, InternalError, SolverTimeoutError
from planc.packing.buffers import Buffer, Packing, PackingError
from planc.packing.heuristics.greedy import best_greedy
from planc.packing.model import build_model

CHECK_UP_TO = "PLANC_CHECK_PACKINGS"
"""Environment variable: every packing of at most so many buffers is held against the definition, pair by pair."""

# Offsets are 64-bit, and searches add a few sizes to them.
MAX_TOTAL_BYTES = 2**60

# Part of the time limit that is left for searches however long the greedy packings took.
_LEAST_SHARE = 0.1


def pack(
    buffers: Sequence[Buffer],
    *,
    capacity: int | None = None,
    time_limit: float = 10.0,
    seed: int = 0,
    known: Packing | None = None,
    clock: StoppableClock = WALL,
) -> Packing:
    """Pack `buffers` as low as possible, or, with a `capacity` in bytes, low enough: fitting it ends the search.

    Greedy packings come first; where they miss the lower bound (the maximum load over time) and the capacity, each
    group of buffers that no cut in time separates goes to heuristic and exact searches on two threads, for
    `time_limit` seconds in all, and, on a machine's first use, some four seconds of
    compiling. By a `clock` that counts work the result depends on the buffers and the seed alone.
    Groups of more than 3,000 buffers are not searched exactly, those of more than 8,000 get further greedy
    packings until one fits. A packing of the same buffers that is `known` takes the place of the greedy ones. Buffers
    some of which are pinned are packed in another way (`planc.packing.pinned`), without a `known` packing.
    Raises PackingError for a negative size or capacity, a bad alignment, pin or time limit, lifetimes that are empty,
    unsorted or overlapping, pins that exclude each other, or a known packing of another number of buffers.
    """
    started = clock.now()
    _check_options(capacity, time_limit)
    _check_buffers(buffers)
    if known is not None and len(known.offsets) != len(buffers):
        raise PackingError(f"the known packing has {len(known.offsets)} offsets for {len(buffers)} buffers")
    if any(buffer.pinned is not None for buffer in buffers):
        from planc.packing.pinned import pack_around  # the solver takes half a second to import

        offsets_found, lowest = pack_around(buffers, capacity, time_limit, seed, clock)
        return _judged(buffers, offsets_found, lowest, capacity, clock.now() - started)
    model = build_model(buffers)
    bound = max(model.load_bound(), 0 if known is None else known.lower_bound)
    offsets = np.zeros(model.count, np.int64)
    # A capacity below the bound cannot be met; the best packing found quickly still tells the caller by how much.
    target = bound if capacity is None else max(bound, capacity)
    if model.count:
        offsets = best_greedy(model, target) if known is None else np.array(known.offsets, np.int64)[model.source]
        open_question = capacity is None or bound <= capacity
        if model.height(offsets) > target and open_question and time_limit > 0:
            # numba takes half a second to import, and the easy cases do not get here.
            from planc.packing.portfolio import improve

            deadline = max(started + time_limit, clock.now() + _LEAST_SHARE * time_limit)
            offsets, bound = improve(model, offsets, bound, capacity, deadline, seed, clock)
    result = np.zeros(len(buffers), np.int64)
    result[model.source] = offsets
    return _judged(buffers, result.tolist(), bound, capacity, clock.now() - started)


def _judged(
    buffers: Sequence[Buffer], offsets: Sequence[int], bound: int, capacity: int | None, seconds: float
) -> Packing:
    """The packing with its height and status, checked where that is asked for."""
    tops = (offset + b.size for b, offset in zip(buffers, offsets, strict=True) if b.size and b.lifetimes)
    height = max(tops, default=0)
    packing = Packing(tuple(offsets), height, bound, _status(height, bound, capacity), seconds)
    if len(buffers) <= int(os.environ.get(CHECK_UP_TO, "0")):
        _require_good(buffers, packing)
    return packing


def _require_good(buffers: Sequence[Buffer], packing: Packing) -> None:
    """Hold a packing against the definition. Raises InternalError: the packer is wrong."""
    from planc.packing.check import Verdict, check_packing

    placed = [(b, at) for b, at in zip(buffers, packing.offsets, strict=True) if b.lifetimes]
    verdict = check_packing([b for b, _ in placed], [at for _, at in placed], packing.height)
    if verdict is not Verdict.GOOD:
        raise InternalError(f"a packing of {len(buffers)} buffers is wrong: {verdict.value}")


def require_fit(packing: Packing, capacity: int | None) -> None:
    """Raise InfeasibleBudgetError or SolverTimeoutError when the packing does not fit the capacity it was made for."""
    if packing.status is Status.INFEASIBLE:
        raise InfeasibleBudgetError(
            f"no packing fits {capacity} bytes: {packing.lower_bound} are needed at least, {packing.height} are enough",
            packing.lower_bound, "", capacity,
        )  # fmt: skip
    if packing.status is Status.TIMEOUT:
        raise SolverTimeoutError(
            f"no packing within {capacity} bytes was found in {packing.solve_s:.1f} s: the best has {packing.height}, "
            f"the lower bound is {packing.lower_bound}; give a larger capacity or time limit"
        )


def _status(height: int, bound: int, capacity: int | None) -> Status:
    if capacity is not None and height > capacity:
        return Status.INFEASIBLE if bound > capacity else Status.TIMEOUT
    return Status.OPTIMAL if height == bound else Status.FEASIBLE


def _check_options(capacity: int | None, time_limit: float) -> None:
    if capacity is not None and capacity < 0:
        raise PackingError(f"capacity {capacity}: expected a number of bytes, 0 or more")
    if not (math.isfinite(time_limit) and time_limit >= 0):
        raise PackingError(f"time limit {time_limit}: expected a finite number of seconds, 0 or more")


def _check_buffers(buffers: Sequence[Buffer]) -> None:
    for buffer in buffers:
        if buffer.size < 0 or buffer.alignment < 1:
            raise PackingError(
                f"buffer {buffer.id!r}: size {buffer.size} and alignment {buffer.alignment}; "
                "expected a size of at least 0 and an alignment of at least 1 byte"
            )
        if buffer.pinned is not None and (buffer.pinned < 0 or buffer.pinned % buffer.alignment):
            raise PackingError(
                f"buffer {buffer.id!r}: pinned at {buffer.pinned}; expected 0 or more and a multiple of its alignment, "
                f"{buffer.alignment}"
            )
        lifetimes = buffer.lifetimes
        empty = any(lower >= upper for lower, upper in lifetimes)
        if empty or any(before[1] > after[0] for before, after in pairwise(lifetimes)):
            raise PackingError(
                f"buffer {buffer.id!r}: lifetimes {lifetimes}; expected non-empty half-open intervals, "
                "sorted and disjoint"
            )
    pins = max((buffer.pinned for buffer in buffers if buffer.pinned is not None), default=0)
    if pins + sum(buffer.size + buffer.alignment for buffer in buffers) > MAX_TOTAL_BYTES:
        raise PackingError(
            f"the buffers' sizes, and the highest offset given, add up to more than {MAX_TOTAL_BYTES} bytes"
        )
