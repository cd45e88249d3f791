"""Gaps in a buffer's lifetime, as MiniMalloc writes them in one cell: `7-9 12-14`."""

import re

from planc.packing.buffers import PackingError

_GAP = re.compile(r"(-?\d+)-(-?\d+)(@.*)?", re.ASCII)

_MOST_DIGITS = 20
"""More digits than any time has; Python refuses to read thousands."""


def without_gaps(where: str, lifetime: tuple[int, int], text: str, past_end: int) -> tuple[tuple[int, int], ...]:
    """What the gaps in `text` leave of `lifetime`, half-open intervals in ascending order; a gap's second time counts
    `past_end` more than is written.

    Raises PackingError, beginning with `where`, for a gap that cannot be read, is empty, lies outside the lifetime or
    overlaps another, and for one in which part of the buffer stays (`7-9@0:4`).
    """
    begin, end = lifetime
    left: list[tuple[int, int]] = []
    for lower, upper in sorted(_gap(where, word, past_end) for word in text.split()):
        if not begin <= lower < upper <= end:
            raise PackingError(
                f"{where}: the gap from {lower} to {upper}; expected one within {lifetime[0]} to {end} that overlaps no "
                "other"
            )
        left += [(begin, lower)] if begin < lower else []
        begin = upper
    return (*left, (begin, end)) if begin < end else tuple(left)


def _gap(where: str, word: str, past_end: int) -> tuple[int, int]:
    found = _GAP.fullmatch(word)
    if found is None or max(len(found[1]), len(found[2])) > _MOST_DIGITS:
        raise PackingError(f"{where}: {word[:50]!r}; expected gaps such as 7-9, separated by blanks")
    if found[3]:
        raise PackingError(
            f"{where}: {word[:50]!r}: gaps in which a part of the buffer stays are not supported; give the part as a "
            "buffer of its own"
        )
    return int(found[1]), int(found[2]) + past_end
