"""Which inputs of a Concat are contiguous pieces of its output, against numpy."""

import numpy as np
import pytest

from planc.graph.concat import piece_offsets


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("shape", [(2, 3, 64), (1, 3, 64), (1, 1, 64), (1, 1, 60), (4, 1, 1), (1, 64, 1)])
@pytest.mark.parametrize("counts", [(1, 2), (2, 1, 3), (4, 4)])
def test_pieces_are_those_of_numpy(shape: tuple[int, ...], axis: int, counts: tuple[int, ...]) -> None:
    shapes = [tuple(n * count if a == axis else n for a, n in enumerate(shape)) for count in counts]
    parts = [np.full(s, i, np.float32) for i, s in enumerate(shapes)]
    whole = np.concatenate(parts, axis)
    flat, nbytes = whole.reshape(-1), [part.nbytes for part in parts]
    starts = [int(np.argmax(flat == i)) * 4 for i in range(len(parts))]
    blocks = [flat[start // 4 : (start + size) // 4] for start, size in zip(starts, nbytes, strict=True)]
    contiguous = all((block == i).all() for i, block in enumerate(blocks))
    expected = starts if contiguous and all(start % 256 == 0 for start in starts) else None
    assert piece_offsets(shapes, whole.shape, nbytes) == expected


def test_an_empty_input_or_a_lone_one_is_no_piece() -> None:
    assert piece_offsets([(0, 64), (2, 64)], (2, 64), [0, 512]) is None
    assert piece_offsets([(2, 64), (0, 64)], (2, 64), [512, 0]) is None
    assert piece_offsets([(2, 64)], (2, 64), [512]) is None
