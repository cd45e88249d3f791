"""Buffers with gaps stacked by compiled code, against the same in plain Python."""

import numpy as np
import pytest

from planc.packing.heuristics.stack import Stack, settle


def _stack(seed: int) -> Stack:
    random = np.random.default_rng(seed)
    buffers, stretches = int(random.integers(1, 9)), int(random.integers(1, 12))
    spans = []
    for _ in range(buffers):
        cuts = np.sort(random.choice(stretches + 1, size=2 * min(3, (stretches + 1) // 2), replace=False))
        spans.append([(int(a), int(b)) for a, b in zip(cuts[::2], cuts[1::2], strict=True)])
    first = np.cumsum([0, *map(len, spans)]).astype(np.int64)
    begins, stops = (np.array([span[end] for each in spans for span in each], np.int64) for end in (0, 1))
    size = random.integers(1, 100, buffers)
    alignment = 2 ** random.integers(0, 5, buffers)
    return Stack(32, 100, random.integers(0, 100, stretches), first, begins, stops, size, alignment)


def _laid(s: Stack, order: list[int]) -> tuple[list[int], list[int], int]:
    """Offsets in that order, floors, and the bytes over the highest load."""
    floor, offsets = [s.base] * len(s.load), []
    for i in order:
        spans = [range(s.begins[k], s.stops[k]) for k in range(s.first[i], s.first[i + 1])]
        top = max(floor[stretch] for span in spans for stretch in span)
        step = int(s.alignment[i])
        offsets.append(-(-top // step) * step)
        for span in spans:
            for stretch in span:
                floor[stretch] = offsets[-1] + int(s.size[i])
    excess = sum(max(0, f + int(held) - s.highest) for f, held in zip(floor, s.load, strict=True))
    return offsets, floor, excess


@pytest.mark.parametrize("seed", range(40))
def test_the_stack_is_that_of_plain_python(seed: int) -> None:
    s, count = _stack(seed), len(_stack(seed).size)
    moves = np.random.default_rng(seed).integers(count, size=(60, 2))
    orders, offsets = np.stack([np.arange(count), np.arange(count)]), np.zeros((2, count), np.int64)
    floors = np.zeros((2, len(s.load)), np.int64)
    settle(s, moves, orders, offsets, floors)

    order = list(range(count))
    best = _laid(s, order)
    for put, taken in moves.tolist():
        if not best[2]:
            break
        trial = order.copy()
        trial.insert(put, trial.pop(taken))
        if _laid(s, trial)[2] <= best[2]:
            order, best = trial, _laid(s, trial)
    assert (orders[0].tolist(), offsets[0].tolist(), floors[0].tolist()) == (order, best[0], best[1])
