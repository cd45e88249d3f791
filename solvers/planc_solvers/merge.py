"""Large models in small: variables that look alike are made equal, and rows that become the same are kept once.

Looking alike is colour refinement of the bipartite graph of rows and columns (Grohe et al., ESA 2014), stopped after a
few rounds: a deep network's repeated blocks then share their variables. Equal values are a restriction, so the merged
optimum is a point of the whole relaxation and not a bound on it; its duals give a bound all the same (Lagrange).
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from planc_solvers.coarse import Coarse
from planc_solvers.linear import LinearModel

Ints = npt.NDArray[np.int64]
Point = npt.NDArray[np.float64]

GOLDEN = (5**0.5 - 1) / 2
"""Multiples of it, modulo 1, spread evenly over [0, 1)."""


class Merged(NamedTuple):
    """Of one merged model: a point of the whole relaxation with presence rounded, and a bound on the whole relaxation."""

    point: Point
    bound: float


def solve_merged(coarse: Coarse, seconds: float, rounds: int) -> Merged | None:
    """Solve the relaxation with `rounds` of refinement, which say how far, in rows, a difference spreads; None if late.

    Equal fractions would all round alike, so the i-th variable of a colour is rounded at the i-th multiple of the golden
    ratio: of a class present to 0.4 two in five are kept, and variables of one block, having one rank, go together.
    The bound is that of the merged duals, each shared equally by the rows that were merged into one.
    """
    model = coarse.model
    rows, columns, values = model.entries()
    of_column, of_row = _colours(model, rows, columns, values, rounds)
    answer = _merged(model, rows, columns, values, of_column, of_row).solve(seconds, relaxed=True)
    if answer.point is None:
        return None
    point = answer.point[of_column]
    threshold = (GOLDEN * (_ranks(of_column) + 0.5)) % 1.0
    kept = np.array([*coarse.present.values(), *coarse.resident.values()], np.int64)
    rounded = np.where(point > 1 - threshold, 1.0, 0.0)
    rounded[kept] = np.where(point[kept] >= threshold[kept], 1.0, 0.0)
    duals = answer.duals
    bound = -np.inf if duals is None else model.lagrangian_bound((duals / np.bincount(of_row))[of_row])
    return Merged(rounded, bound)


def _ranks(colours: Ints) -> Ints:
    """For each element how many before it have its colour."""
    order = np.argsort(colours, kind="stable")
    begin = np.searchsorted(colours[order], np.arange(int(colours.max()) + 2))
    ranks = np.empty_like(colours)
    ranks[order] = np.arange(colours.size) - begin[colours[order]]
    return ranks


def _renumbered(keys: npt.NDArray[np.float64]) -> Ints:
    """Colours 0, 1, … of the distinct rows of `keys`."""
    _, colours = np.unique(np.round(keys, 12), axis=0, return_inverse=True)
    return colours.reshape(-1).astype(np.int64)


def _colours(
    model: LinearModel, rows: Ints, columns: Ints, values: npt.NDArray[np.float64], rounds: int
) -> tuple[Ints, Ints]:
    of_column = _renumbered(np.array([model.lower, np.minimum(model.upper, 1e18), model.cost]).T)
    bounds = np.array([np.maximum(model.row_lower, -1e18), np.minimum(model.row_upper, 1e18)]).T
    of_row = _renumbered(bounds)
    generator = np.random.default_rng(0)
    for _ in range(rounds):
        of_row = _refined(of_row, rows, of_column[columns], values, generator)
        of_column = _refined(of_column, columns, of_row[rows], values, generator)
    return of_column, _refined(of_row, rows, of_column[columns], values, generator)


def _refined(
    colours: Ints, ends: Ints, others: Ints, values: npt.NDArray[np.float64], generator: np.random.Generator
) -> Ints:
    """Colours split by the multiset of (coefficient, colour of the other end), hashed to a random sum."""
    weight = generator.random(int(others.max()) + 1)
    total = np.bincount(ends, weights=weight[others] * (values + 0.618), minlength=colours.size)
    return _renumbered(np.array([colours, np.round(total, 9)]).T)


def _merged(
    model: LinearModel, rows: Ints, columns: Ints, values: npt.NDArray[np.float64], of_column: Ints, of_row: Ints
) -> LinearModel:
    """One variable a colour; of each colour of rows one row, with the coefficients of equal variables summed."""
    small = LinearModel()
    _, first = np.unique(of_column, return_index=True)
    cost = np.bincount(of_column, weights=model.cost)
    for colour, column in enumerate(first):
        small.variable(model.lower[column], model.upper[column], float(cost[colour]))
    _, chosen = np.unique(of_row, return_index=True)
    order = np.argsort(rows, kind="stable")
    begin = np.searchsorted(rows[order], np.arange(len(model.row_lower) + 1))
    for row in chosen:
        terms: dict[int, float] = {}
        for entry in order[begin[row] : begin[row + 1]]:
            colour = int(of_column[columns[entry]])
            terms[colour] = terms.get(colour, 0.0) + float(values[entry])
        small.row(list(terms.items()), model.row_lower[row], model.row_upper[row])
    return small
