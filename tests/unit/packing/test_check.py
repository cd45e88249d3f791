"""The checker's verdicts: mostly invalid packings, each broken in one way."""

import pytest

from planc.packing.buffers import Buffer
from planc.packing.check import Verdict, check_packing

LONG = Buffer("long", 4, ((0, 10),))
EARLY = Buffer("early", 3, ((0, 5),))
LATE = Buffer("late", 3, ((5, 10),))
HOLED = Buffer("holed", 2, ((0, 2), (6, 10)))
COARSE = Buffer("coarse", 5, ((0, 10),), alignment=8)
EMPTY = Buffer("empty", 0, ((0, 10),))


@pytest.mark.parametrize(
    ("buffers", "offsets", "capacity"),
    [
        ((), (), 0),
        ((LONG, EARLY, LATE), (0, 4, 4), 7),
        ((HOLED, Buffer("inside", 2, ((2, 6),))), (0, 0), 2),
        ((LONG, COARSE), (0, 8), 13),
        ((LONG, EMPTY), (0, 2), 4),
    ],
)
def test_valid_packings_are_good(buffers: tuple[Buffer, ...], offsets: tuple[int, ...], capacity: int) -> None:
    assert check_packing(buffers, offsets, capacity) is Verdict.GOOD


@pytest.mark.parametrize(
    ("buffers", "offsets", "capacity", "verdict"),
    [
        ((LONG,), (), None, Verdict.BAD_COUNT),
        ((LONG,), (0, 0), None, Verdict.BAD_COUNT),
        ((), (0,), None, Verdict.BAD_COUNT),
        ((LONG, EARLY), (0, -3), None, Verdict.BAD_OFFSET),
        ((LONG,), (-1,), 8, Verdict.BAD_OFFSET),
        ((COARSE,), (4,), None, Verdict.BAD_ALIGNMENT),
        ((LONG, COARSE), (0, 12), None, Verdict.BAD_ALIGNMENT),
        ((LONG,), (1,), 4, Verdict.BAD_HEIGHT),
        ((LONG, COARSE), (0, 8), 12, Verdict.BAD_HEIGHT),
        ((LONG, EARLY), (0, 3), None, Verdict.BAD_OVERLAP),
        ((LONG, EARLY), (0, 0), None, Verdict.BAD_OVERLAP),
        ((EARLY, LONG), (1, 0), None, Verdict.BAD_OVERLAP),
        ((Buffer("big", 9, ((0, 9),)), Buffer("tiny", 1, ((4, 5),))), (0, 4), None, Verdict.BAD_OVERLAP),
        ((HOLED, Buffer("touching", 2, ((2, 7),))), (0, 1), None, Verdict.BAD_OVERLAP),
        ((HOLED, HOLED), (0, 1), None, Verdict.BAD_OVERLAP),
        ((LATE, EARLY, Buffer("across", 1, ((4, 6),))), (0, 0, 2), None, Verdict.BAD_OVERLAP),
    ],
)
def test_broken_packings_are_named(
    buffers: tuple[Buffer, ...], offsets: tuple[int, ...], capacity: int | None, verdict: Verdict
) -> None:
    assert check_packing(buffers, offsets, capacity) is verdict
