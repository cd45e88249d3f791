"""The ground that skylines are filled on: buffers that live throughout, and on them, where it pays, those with gaps.

A skyline takes a lifetime with gaps as a whole. State that leaves the slab in the middle of a step would so keep its
bytes from everything else; stacked beneath all others, each gap within the gaps of those above, it leaves them open.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from planc.packing.model import Array, Model, sweep

_TRIALS = 1000
"""Most orders of the stack that are tried …"""

_TRIAL_BUFFERS = 100_000
"""… and buffers in all of them: some 0.4 s."""


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
    stack = _Stack(model, gapped, base, load)
    alive = np.add.reduceat(model.upper - model.lower, model.first[:-1])[gapped]
    order = np.lexsort((-model.size[gapped], -alive)).tolist()
    floor, offsets = stack.laid(order)
    excess = stack.excess(floor)
    random = np.random.default_rng(0)
    for _ in range(min(_TRIALS, _TRIAL_BUFFERS // len(order))):
        if not excess:
            break
        trial = order.copy()
        trial.insert(int(random.integers(len(order))), trial.pop(int(random.integers(len(order)))))
        changed, places = stack.laid(trial)
        if stack.excess(changed) <= excess:
            order, floor, offsets, excess = trial, changed, places, stack.excess(changed)
    return np.repeat(floor, stack.widths), gapped[order], np.array(offsets, np.int64)


class _Stack:
    """Buffers laid on top of each other, over the stretches of time between their ends."""

    def __init__(self, model: Model, gapped: Array, base: int, load: Array) -> None:
        rows = [slice(model.first[i], model.first[i + 1]) for i in gapped]
        ends = np.concatenate([[0], *(model.lower[r] for r in rows), *(model.upper[r] for r in rows)])
        cuts = np.unique(ends[ends < model.sections])
        self.base, self.widths = base, np.diff(np.append(cuts, model.sections))
        self.load = np.maximum.reduceat(load, cuts)
        self.highest = int(model.load().max())
        self.spans = [list(self._stretches(model, cuts, r)) for r in rows]
        self.size, self.alignment = model.size[gapped].tolist(), model.alignment[gapped].tolist()

    @staticmethod
    def _stretches(model: Model, cuts: Array, rows: slice) -> Iterator[slice]:
        for lower, upper in zip(model.lower[rows], model.upper[rows], strict=True):
            yield slice(int(np.searchsorted(cuts, lower)), int(np.searchsorted(cuts, upper)))

    def laid(self, order: Sequence[int]) -> tuple[Array, list[int]]:
        """The floor over every stretch and the offsets, in that order."""
        floor, offsets = np.full(len(self.load), self.base, np.int64), []
        for i in order:
            step = self.alignment[i]
            offsets.append(-(-max([int(floor[span].max()) for span in self.spans[i]]) // step) * step)
            for span in self.spans[i]:
                floor[span] = offsets[-1] + self.size[i]
        return floor, offsets

    def excess(self, floor: Array) -> int:
        """Bytes over the highest load, of all stretches together."""
        return int(np.maximum(floor + self.load - self.highest, 0).sum())
