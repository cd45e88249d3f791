"""Buffers with gaps laid on top of each other: the inner loop of `planc.packing.heuristics.ground`."""

from dataclasses import dataclass

from planc.compiled.jit import compiled, inner, int64
from planc.compiled.packed import Packed
from planc.packing.model import Array


@dataclass(frozen=True, eq=False)
class Stack(Packed):
    """Buffers over stretches of time between their ends, on `base` bytes.

    Buffer i is alive on the stretches [`begins[k]`, `stops[k]`) for k from `first[i]` on. `load` is what else a stretch
    holds (bytes), and `highest` the highest load of the model.
    """

    base: int
    highest: int
    load: Array
    first: Array
    begins: Array
    stops: Array
    size: Array
    alignment: Array


@compiled
def settle(s: Stack, moves: Array, orders: Array, offsets: Array, floors: Array) -> None:
    """Move buffers at random as long as the bytes over the highest load, of all stretches together, do not grow.

    The first rows of `orders`, `offsets` (bytes, in that order) and `floors` (bytes, by stretch) are the result, and the
    first order is the one to begin with; the second rows are room. Each of the `moves` puts the buffer at its second
    place to its first.
    """
    excess = _laid(s, orders, offsets, floors, 0)
    for move in range(len(moves)):
        if excess == 0:
            break
        _moved(orders, moves[move, 1], moves[move, 0])
        changed = _laid(s, orders, offsets, floors, 1)
        if changed <= excess:
            excess = changed
            for i in range(len(s.size)):
                orders[0, i], offsets[0, i] = orders[1, i], offsets[1, i]
            for stretch in range(len(s.load)):
                floors[0, stretch] = floors[1, stretch]


@inner
def _moved(orders: Array, taken: int, put: int) -> None:
    """The first order with the buffer at one place put to another, as the second."""
    source = int64(0)
    for place in range(orders.shape[1]):
        if place == put:
            orders[1, place] = orders[0, taken]
            continue
        if source == taken:
            source += 1
        orders[1, place] = orders[0, source]
        source += 1


@inner
def _laid(s: Stack, orders: Array, offsets: Array, floors: Array, row: int) -> int:
    """Lay the buffers in the order of that row; the bytes over the highest load."""
    for stretch in range(len(s.load)):
        floors[row, stretch] = s.base
    for place in range(len(s.size)):
        i = orders[row, place]
        top = int64(0)
        for k in range(s.first[i], s.first[i + 1]):
            for stretch in range(s.begins[k], s.stops[k]):
                top = max(top, floors[row, stretch])
        step = s.alignment[i]
        offsets[row, place] = (top + step - 1) // step * step
        for k in range(s.first[i], s.first[i + 1]):
            for stretch in range(s.begins[k], s.stops[k]):
                floors[row, stretch] = offsets[row, place] + s.size[i]
    excess = int64(0)
    for stretch in range(len(s.load)):
        excess += max(int64(0), floors[row, stretch] + s.load[stretch] - s.highest)
    return excess
