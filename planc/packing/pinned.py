"""Packing around buffers whose offsets are given: first fit in a few orders, then CP-SAT over what is left open.

MiniMalloc's files may pin buffers (`offset`). The searches of `planc.packing.exact` know no pins, and such files are few,
so that a constraint solver answers: every lifetime is a rectangle, fixed in time, and no two overlap.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from ortools.sat.python import cp_model

from planc.clock import StoppableClock, limit_cp_sat
from planc.packing.buffers import Buffer, PackingError
from planc.packing.model import build_model
from planc.units import align_up

_LARGEST_AREA = 2**60
"""Bytes times stretches of time up to which CP-SAT's integers hold what it adds up."""

_EXACT = 2**53
"""The solver tells its bound as a float, which is exact below."""

_MOST = 3_000
"""Buffers up to which the constraint solver is asked."""

_ORDERS: tuple[Callable[[Buffer], tuple[int, ...]], ...] = (
    lambda b: (-b.size,),
    lambda b: (-sum(upper - lower for lower, upper in b.lifetimes), -b.size),
    lambda b: (-b.size * sum(upper - lower for lower, upper in b.lifetimes),),
    lambda b: (b.lifetimes[0][0], -b.size),
)


class _Effort(NamedTuple):
    """What the constraint solver may spend: seconds of the clock or, where work is counted, of its own measure."""

    seconds: float
    seed: int
    counted: bool


def pack_around(
    buffers: Sequence[Buffer], capacity: int | None, time_limit: float, seed: int, clock: StoppableClock
) -> tuple[list[int], int]:
    """Offsets (bytes) as low as found, or the first within `capacity`, and a proven lower bound of the height.

    Raises PackingError when pinned buffers share a byte.
    """
    used = [i for i, buffer in enumerate(buffers) if buffer.size and buffer.lifetimes]
    chosen = _in_stretches([buffers[i] for i in used])
    _require_apart(chosen)
    bound = max([build_model(chosen).load_bound(), *(b.pinned + b.size for b in chosen if b.pinned is not None)])
    best = min((_first_fit(chosen, order) for order in _ORDERS), key=lambda offsets: _height(chosen, offsets))
    target = bound if capacity is None else max(bound, capacity)
    if _height(chosen, best) > target and (capacity is None or bound <= capacity) and time_limit > 0:
        best, bound = _solved(chosen, best, bound, capacity, _Effort(time_limit, seed, clock.counted))
    offsets = [buffer.pinned or 0 for buffer in buffers]
    for i, offset in zip(used, best, strict=True):
        offsets[i] = offset
    return offsets, bound


def _in_stretches(buffers: Sequence[Buffer]) -> list[Buffer]:
    """The same buffers with times counted in the stretches between two ends of lifetimes."""
    ends = sorted({end for buffer in buffers for lifetime in buffer.lifetimes for end in lifetime})
    return [
        replace(
            b, lifetimes=tuple((bisect_left(ends, lower), bisect_left(ends, upper)) for lower, upper in b.lifetimes)
        )
        for b in buffers
    ]


def _meet(a: Buffer, b: Buffer) -> bool:
    return any(low < end and start < high for low, high in a.lifetimes for start, end in b.lifetimes)


def _require_apart(buffers: Sequence[Buffer]) -> None:
    pinned = sorted(((b.pinned, b) for b in buffers if b.pinned is not None), key=lambda pair: pair[0])
    for index, (offset, buffer) in enumerate(pinned):
        for above, other in pinned[index + 1 :]:
            if above >= offset + buffer.size:
                break
            if _meet(buffer, other):
                raise PackingError(
                    f"buffers {buffer.id!r} and {other.id!r} are alive at the same time and their offsets, {offset} and "
                    f"{above}, make them share byte {above}; expected offsets that leave each its bytes"
                )


def _height(buffers: Sequence[Buffer], offsets: Sequence[int]) -> int:
    return max((offset + b.size for b, offset in zip(buffers, offsets, strict=True)), default=0)


def _first_fit(buffers: Sequence[Buffer], order: Callable[[Buffer], tuple[int, ...]]) -> list[int]:
    """Each buffer without a pin as low as the pinned ones and those before it leave room."""
    offsets = [-1 if b.pinned is None else b.pinned for b in buffers]
    placed = [i for i, b in enumerate(buffers) if b.pinned is not None]
    for i in sorted((i for i, b in enumerate(buffers) if b.pinned is None), key=lambda i: order(buffers[i])):
        buffer, at = buffers[i], 0
        for start, end in sorted(
            (offsets[k], offsets[k] + buffers[k].size) for k in placed if _meet(buffer, buffers[k])
        ):
            if at + buffer.size <= start:
                break
            at = max(at, align_up(end, buffer.alignment))
        offsets[i] = at
        placed.append(i)
    return offsets


def _solved(
    buffers: Sequence[Buffer], known: list[int], bound: int, capacity: int | None, effort: _Effort
) -> tuple[list[int], int]:
    """Offsets no higher than those `known`, the lowest or the first within `capacity`, and a bound."""
    top = _height(buffers, known) if capacity is None else capacity
    stretches = max(upper for b in buffers for _, upper in b.lifetimes)
    if top * stretches > _LARGEST_AREA or len(buffers) > _MOST:
        return known, bound
    model = cp_model.CpModel()
    height = model.new_int_var(bound, top, "height")
    at: list[cp_model.LinearExprT] = []
    times, spans = [], []
    for index, (buffer, offset) in enumerate(zip(buffers, known, strict=True)):
        step = model.new_int_var(0, (top - buffer.size) // buffer.alignment, f"step {index}")
        if buffer.pinned is not None:
            model.add(step * buffer.alignment == buffer.pinned)
        if capacity is None:
            model.add_hint(step, offset // buffer.alignment)
        at.append(step * buffer.alignment)
        span = model.new_fixed_size_interval_var(at[-1], buffer.size, f"bytes {index}")
        model.add(height >= at[-1] + buffer.size)
        for lower, upper in buffer.lifetimes:
            times.append(model.new_fixed_size_interval_var(lower, upper - lower, "time"))
            spans.append(span)
    model.add_no_overlap_2d(times, spans)
    if capacity is None:
        model.minimize(height)
    solver = _solver(effort)
    status = solver.solve(model)
    if status == cp_model.INFEASIBLE:
        return known, top + 1
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return known, bound
    offsets = [solver.value(offset) for offset in at]
    if capacity is not None:
        return offsets, bound
    if status == cp_model.OPTIMAL:
        return offsets, _height(buffers, offsets)
    proved = solver.best_objective_bound
    return offsets, max(bound, int(proved)) if proved < _EXACT else bound


def _solver(effort: _Effort) -> cp_model.CpSolver:
    solver = cp_model.CpSolver()
    limit_cp_sat(solver.parameters, effort.seconds, effort.counted, workers=2)
    solver.parameters.random_seed = effort.seed % (1 << 31)
    return solver
