"""Colour refinement of a model's bipartite graph of rows and columns: which of them look alike (Grohe et al., ESA 2014).

Colours are hashes of what a row or column is and of the colours around it; stopped after a few rounds, a deep network's
repeated blocks share theirs.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from planc_solvers.bounds.linear_model import LinearModel

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Hashes = npt.NDArray[np.uint64]

_MIX = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


@dataclass(frozen=True, slots=True)
class Matrix:
    """Entries of a model's matrix by row: those of row i are at [row_ptr[i], row_ptr[i + 1])."""

    rows: Ints
    columns: Ints
    values: Floats
    row_ptr: Ints

    @classmethod
    def of(cls, model: LinearModel) -> "Matrix":
        rows, columns, values = model.entries()  # rows are added one after the other, so they are in order
        return cls(rows, columns, values, np.searchsorted(rows, np.arange(len(model.row_lower) + 1)))


def _mixed(*parts: Hashes) -> Hashes:
    """One hash of several numbers an element, their order counting (SplitMix64, Steele et al. 2014)."""
    mixed = np.zeros_like(parts[0])
    for part in parts:
        mixed = (mixed + part) * _MIX[0] + _MIX[1]
        mixed = (mixed ^ (mixed >> np.uint64(30))) * _MIX[1]
        mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX[2]
        mixed = mixed ^ (mixed >> np.uint64(31))
    return mixed


def _bits(numbers: npt.ArrayLike) -> Hashes:
    """Numbers as hashes: equal to 12 decimals is equal."""
    return (np.round(np.minimum(np.maximum(np.asarray(numbers, np.float64), -1e18), 1e18), 12) + 0.0).view(np.uint64)


def colours(model: LinearModel, matrix: Matrix, rounds: int) -> tuple[Ints, Ints]:
    """Colours 0, 1, … of the columns and of the rows."""
    of_column = _mixed(_bits(model.lower), _bits(model.upper), _bits(model.cost))
    of_row = _mixed(_bits(model.row_lower), _bits(model.row_upper))
    by_column = np.argsort(matrix.columns, kind="stable")
    column_ptr = np.searchsorted(matrix.columns[by_column], np.arange(of_column.size + 1))
    row_values = _bits(matrix.values)
    column_values, column_rows = row_values[by_column], matrix.rows[by_column]
    for _ in range(rounds):
        of_row = _mixed(of_row, _sums(_mixed(row_values, of_column[matrix.columns]), matrix.row_ptr))
        of_column = _mixed(of_column, _sums(_mixed(column_values, of_row[column_rows]), column_ptr))
    of_row = _mixed(of_row, _sums(_mixed(row_values, of_column[matrix.columns]), matrix.row_ptr))
    return np.unique(of_column, return_inverse=True)[1], np.unique(of_row, return_inverse=True)[1]


def _sums(hashes: Hashes, pointers: Ints) -> Hashes:
    """Sums modulo 2^64 of hashes[pointers[i]:pointers[i + 1]]: equal for equal multisets."""
    total: Hashes = np.concatenate([np.zeros(1, np.uint64), np.cumsum(hashes, dtype=np.uint64)])
    parts: Hashes = total[pointers[1:]] - total[pointers[:-1]]
    return parts
