"""The ground that skylines are filled on: buffers that live throughout, and on them, where it pays, those with gaps.

A skyline takes a lifetime with gaps as a whole. State that leaves the slab in the middle of a step would so keep its
bytes from everything else; stacked beneath all others, each gap within the gaps of those above, it leaves them open.
"""

from dataclasses import dataclass

import numpy as np

from planc.packing.heuristics.stack import Stack, settle
from planc.packing.model import Array, Model, sweep

_TRIALS = 1000
"""Most orders of the stack that are tried …"""

_TRIAL_BUFFERS = 100_000
"""… and buffers in all of them: a few milliseconds."""


@dataclass(frozen=True)
class Ground:
    """Where every section's floor lies (bytes), buffers with their offsets beneath it, and those that go on top;
    positions in the model."""

    floor: Array
    beneath: Array
    offsets: Array
    above: Array


def ground(model: Model) -> Ground:
    """Level ground, or the buffers with gaps where the load over these is lower than that of all hulls."""
    through = model.spanning() & (len(np.unique(model.alignment)) == 1)
    gapped = np.flatnonzero(~through & (np.diff(model.first) > 1))
    deepest, rest = np.flatnonzero(through), np.flatnonzero(~through)
    size = model.size[deepest]
    level = Ground(np.full(model.sections, size.sum(), np.int64), deepest, np.cumsum(size) - size, rest)
    if not len(gapped):
        return level
    alone = np.setdiff1d(rest, gapped)
    floor, order, offsets = _stacked(model, gapped, level.floor[0], _load_of_hulls(model, alone))
    stacked = Ground(floor, np.append(deepest, order), np.append(level.offsets, offsets), alone)
    return min(level, stacked, key=lambda g: (g.floor + _load_of_hulls(model, g.above)).max())


def _load_of_hulls(model: Model, chosen: Array) -> Array:
    starts, ends = model.hull()
    return sweep(starts[chosen], ends[chosen], model.size[chosen], model.sections)


def _stacked(model: Model, gapped: Array, base: int, load: Array) -> tuple[Array, Array, Array]:
    """Floors, buffers from the lowest on and their offsets, on `base` bytes, such that little of `load` on top of them
    lies above the highest load of the model.

    The longest alive come first: gaps within one another then all open to the top. Others are moved at random as long
    as the bytes over the highest load do not grow.
    """
    stack, widths = _stack(model, gapped, base, load)
    count = len(gapped)
    alive = np.add.reduceat(model.upper - model.lower, model.first[:-1])[gapped]
    order = np.lexsort((-model.size[gapped], -alive)).astype(np.int64)
    moves = np.random.default_rng(0).integers(count, size=(min(_TRIALS, _TRIAL_BUFFERS // count), 2))
    orders, offsets = np.stack([order, order]), np.zeros((2, count), np.int64)
    floors = np.zeros((2, len(widths)), np.int64)
    settle(stack, moves, orders, offsets, floors)
    return np.repeat(floors[0], widths), gapped[orders[0]], offsets[0]


def _stack(model: Model, gapped: Array, base: int, load: Array) -> tuple[Stack, Array]:
    """The buffers with gaps as a stack, and how many sections each of its stretches has."""
    rows = [slice(model.first[i], model.first[i + 1]) for i in gapped]
    lower, upper = (np.concatenate([ends[r] for r in rows]) for ends in (model.lower, model.upper))
    ends = np.concatenate([[0], lower, upper])
    cuts = np.unique(ends[ends < model.sections])
    first = np.cumsum([0, *(r.stop - r.start for r in rows)]).astype(np.int64)
    begins, stops = (np.searchsorted(cuts, ends).astype(np.int64) for ends in (lower, upper))
    highest = int(model.load().max())
    load = np.maximum.reduceat(load, cuts)
    stack = Stack(base, highest, load, first, begins, stops, model.size[gapped], model.alignment[gapped])
    return stack, np.diff(np.append(cuts, model.sections))
