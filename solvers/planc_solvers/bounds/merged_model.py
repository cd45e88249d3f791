"""Large models in small: variables that look alike are made equal, and rows that become the same are kept once.

Looking alike is colour refinement of the bipartite graph of rows and columns (Grohe et al., ESA 2014), stopped after a
few rounds: a deep network's repeated blocks then share their variables. Equal values are a restriction, so the merged
optimum is a point of the whole relaxation and not a bound on it; its duals give a bound all the same (Lagrange).
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from planc_solvers.bounds.colour_refinement import Matrix, colours
from planc_solvers.bounds.linear_model import Effort, LinearModel
from planc_solvers.bounds.relaxation import Coarse

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

GOLDEN = (5**0.5 - 1) / 2
"""Multiples of it, modulo 1, spread evenly over [0, 1)."""

PREFERENCE = 1e-4
"""Part of the base duration that state which fills the budget at the step's ends costs in merged models: of points that are
equally fast, those are better that leave memory free between the critical task and the ends.
"""

LEAST = 1e-6
"""Smallest part that counts as some of a variable."""


class Merged(NamedTuple):
    """Of one merged model: a point of the whole relaxation with presence rounded, and a bound on the whole relaxation."""

    point: Floats
    bound: float


class Merger:
    """The merged relaxation of `coarse`, with `rounds` of refinement, which say how far, in rows, a difference spreads.

    The refinement is done once; then models of several budgets and link speeds are solved.
    """

    def __init__(self, coarse: Coarse, rounds: int) -> None:
        self.coarse, self.matrix = coarse, Matrix.of(coarse.model)
        self.of_column, self.of_row = colours(coarse.model, self.matrix, rounds)
        self.cost = np.bincount(self.of_column, weights=_priced(coarse))
        self.threshold = (GOLDEN * (_ranks(self.of_column, _makers(coarse)) + 0.5)) % 1.0

    def solve(
        self, effort: Effort | float, budget: float = 1.0, slowness: float = 1.0, host: float = 1.0
    ) -> Merged | None:
        """A point for those parts of the budget and of the host's and copies that take so much longer; None if late or
        infeasible.

        The point is rounded (`_rounded`). The bound is that of the merged duals, each shared equally by the rows that
        were merged into one; it is -infinity for other budgets or speeds.
        """
        coarse = self.coarse
        answer = self._small(budget, slowness, host).solve(effort, relaxed=True)
        if answer.point is None:
            return None
        rounded = self._rounded(answer.point[self.of_column])
        if answer.duals is None or (budget, slowness, host) != (1.0, 1.0, 1.0):
            return Merged(rounded, -np.inf)
        shared = (answer.duals / np.bincount(self.of_row))[self.of_row]
        return Merged(rounded, coarse.model.lagrangian_bound(shared))

    def _rounded(self, point: Floats) -> Floats:
        """`point` with every value either present, copied in later, or neither, which means recomputed.

        Equal fractions would all round alike, so the i-th variable of a colour is rounded at the i-th multiple of the
        golden ratio: of a class present to 0.4 two in five are kept. What is needed of a value covers these multiples'
        range [0, 1) from its end: present first, then copied in, recomputed last. Variables of one block have one rank,
        so that a value of which nothing is copied in is recomputed with those that its recomputation makes as well, and
        not beside others. Recomputation is left at a half where the model has some of it.
        """
        coarse, rounded = self.coarse, np.where(point > 1 - self.threshold, 1.0, 0.0)
        for (value, k), x in coarse.x.present.items():
            copies, repeats = coarse.returns(value, k)
            held, copied = point[x], sum(point[y] for y in copies)
            begin = max(0.0, 1.0 - held - copied - sum(point[y] for y in repeats))
            rounded[x] = begin < self.threshold[x] <= begin + held
            rounded[copies] = begin + held < self.threshold[x] <= begin + held + copied
        resident = np.array([*coarse.x.resident.values()], np.int64)
        rounded[resident] = np.where(point[resident] >= self.threshold[resident], 1.0, 0.0)
        remade = np.array([*coarse.x.recomputed.values()], np.int64)
        rounded[remade] = np.where(point[remade] > LEAST, 0.5, 0.0)
        return rounded

    def _small(self, budget: float, slowness: float, host: float) -> LinearModel:
        """One variable a colour; of each colour of rows one row, with the coefficients of equal variables summed."""
        model, matrix, small = self.coarse.model, self.matrix, LinearModel()
        _, first = np.unique(self.of_column, return_index=True)
        for colour, column in enumerate(first):
            small.variable(model.lower[column], model.upper[column], float(self.cost[colour]))
        lost = dict.fromkeys(self.coarse.memory_rows, 1.0 - budget) | dict.fromkeys(self.coarse.host_rows, 1.0 - host)
        copies = set(self.coarse.copy_rows)
        _, chosen = np.unique(self.of_row, return_index=True)
        for row in chosen.tolist():
            begin, end = int(matrix.row_ptr[row]), int(matrix.row_ptr[row + 1])
            terms: dict[int, float] = {}
            for entry in range(begin, end):
                colour = int(self.of_column[matrix.columns[entry]])
                slower = slowness if row in copies and entry > begin else 1.0
                terms[colour] = terms.get(colour, 0.0) + slower * float(matrix.values[entry])
            small.row(list(terms.items()), model.row_lower[row], model.row_upper[row] - lost.get(row, 0.0))
        return small


def _priced(coarse: Coarse) -> Floats:
    """The cost of each column, with the preference."""
    priced, problem = np.array(coarse.model.cost), coarse.problem
    for value, column in coarse.x.resident.items():
        priced[column] += PREFERENCE * problem.values[value].bytes / max(problem.budget_bytes, 1)
    return priced


def _makers(coarse: Coarse) -> Ints:
    """For each column a number: one for what is present of the values that one task makes, else one of its own."""
    makers = -1 - np.arange(len(coarse.model.cost))
    for (value, _), column in coarse.x.present.items():
        producer = coarse.problem.producer[value]
        makers[column] = makers[column] if producer is None else producer
    return makers


def _ranks(colours: Ints, makers: Ints) -> Ints:
    """For each element how many makers before its own, in order, have made elements of its colour."""
    order = np.argsort(colours, kind="stable")
    changes = np.concatenate([[0], np.cumsum(np.diff(makers[order]) != 0)])
    begin = np.searchsorted(colours[order], np.arange(int(colours.max()) + 1))
    ranks = np.empty_like(colours)
    ranks[order] = changes - changes[begin[colours[order]]]
    return ranks
