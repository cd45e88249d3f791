"""Mixed-integer linear models, built row by row and solved by MathOpt's HiGHS."""

from dataclasses import dataclass, field
from datetime import timedelta
from math import inf

import numpy as np
import numpy.typing as npt
from ortools.math_opt import model_pb2
from ortools.math_opt.python import mathopt
from ortools.math_opt.solvers import highs_pb2
from ortools.util.python.solve_interrupter import SolveInterrupter

from planc.clock import WALL, StoppableClock
from planc_solvers.bounds.under_way import UNDER_WAY

Terms = list[tuple[int, float]]
"""Variables with their coefficients."""

SECONDS_PER_ENTRY = 4e-8
"""Time that an iteration of the simplex method counts for each entry of the matrix."""

LEAST_ITERATIONS = 100
"""Iterations that every counted solve may take."""

_SOLVED = (mathopt.TerminationReason.OPTIMAL, mathopt.TerminationReason.FEASIBLE)


@dataclass(frozen=True, slots=True)
class Answer:
    """Of a minimisation: a proven lower bound, and the best point with its objective where one was found."""

    bound: float
    objective: float
    point: npt.NDArray[np.float64] | None
    infeasible: bool = False
    duals: npt.NDArray[np.float64] | None = None
    """One a row, of a relaxation solved to its optimum."""


@dataclass(frozen=True, slots=True)
class Effort:
    """What a solve may take: `seconds` of the clock, and nodes of a search for integers.

    Where work is counted there is no time limit, which would stop at another point on every run, but one of iterations, and
    each counts as many seconds as it takes an ordinary machine or more.
    """

    seconds: float
    nodes: int | None = None
    clock: StoppableClock = WALL
    interrupter: SolveInterrupter | None = None

    def iterations(self, entries: int) -> int:
        """Iterations of the simplex method in those seconds for a matrix of so many entries."""
        return max(LEAST_ITERATIONS, int(self.seconds / (entries * SECONDS_PER_ENTRY)))


def _run(proto: model_pb2.ModelProto, effort: Effort, glop: bool, gap: float) -> mathopt.SolveResult | None:
    """By HiGHS, or by GLOP's dual simplex, whose bound holds even when time cuts it short."""
    entries, relaxed = len(proto.linear_constraint_matrix.coefficients), not any(proto.variables.integers)
    parameters = mathopt.SolveParameters(node_limit=effort.nodes)
    if not effort.clock.counted:
        parameters.time_limit = timedelta(seconds=max(effort.seconds, 0.01))
    elif relaxed:
        parameters.iteration_limit = effort.iterations(entries)
    if glop:
        solver, parameters.lp_algorithm = mathopt.SolverType.GLOP, mathopt.LPAlgorithm.DUAL_SIMPLEX
        parameters.node_limit = None
    else:
        solver, parameters.relative_gap_tolerance = mathopt.SolverType.HIGHS, gap
        parameters.highs = highs_pb2.HighsOptionsProto(string_options={"parallel": "off"})
    try:
        model = mathopt.Model.from_model_proto(proto)
        with UNDER_WAY.solving(effort.interrupter) as begins:
            if not begins:
                return None
            result = mathopt.solve(model, solver, params=parameters, interrupter=effort.interrupter)
    except (AttributeError, RuntimeError, ValueError):
        # MathOpt raises the first of these where HiGHS ends with a status that MathOpt does not know.
        return None
    effort.clock.spend(result.solve_stats.simplex_iterations * entries * SECONDS_PER_ENTRY)
    return result


@dataclass(slots=True)
class LinearModel:
    """Minimise cost · x subject to rows; variables are numbered from 0."""

    lower: list[float] = field(default_factory=list)
    upper: list[float] = field(default_factory=list)
    cost: list[float] = field(default_factory=list)
    integer: list[bool] = field(default_factory=list)
    row_lower: list[float] = field(default_factory=list)
    row_upper: list[float] = field(default_factory=list)
    _rows: list[int] = field(default_factory=list)
    _columns: list[int] = field(default_factory=list)
    _values: list[float] = field(default_factory=list)

    @property
    def entry_count(self) -> int:
        """Entries of the matrix."""
        return len(self._values)

    def variable(self, lower: float, upper: float, cost: float = 0.0, integer: bool = False) -> int:
        """Add a variable; its number."""
        self.lower.append(lower)
        self.upper.append(upper)
        self.cost.append(cost)
        self.integer.append(integer)
        return len(self.cost) - 1

    def row(self, terms: Terms, lower: float = -inf, upper: float = inf) -> int:
        """Add lower ≤ Σ coefficient · variable ≤ upper; a variable may occur once. The row's number."""
        index = len(self.row_lower)
        for column, value in terms:
            self._rows.append(index)
            self._columns.append(column)
            self._values.append(value)
        self.row_lower.append(lower)
        self.row_upper.append(upper)
        return index

    def entries(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Rows, columns and coefficients of the matrix."""
        return np.array(self._rows, np.int64), np.array(self._columns, np.int64), np.array(self._values)

    def _proto(self, relaxed: bool) -> model_pb2.ModelProto:
        proto = model_pb2.ModelProto()
        columns, rows = len(self.cost), len(self.row_lower)
        proto.variables.ids.extend(range(columns))
        proto.variables.lower_bounds.extend(self.lower)
        proto.variables.upper_bounds.extend(self.upper)
        proto.variables.integers.extend([False] * columns if relaxed else self.integer)
        priced = [i for i, c in enumerate(self.cost) if c]
        proto.objective.linear_coefficients.ids.extend(priced)
        proto.objective.linear_coefficients.values.extend(self.cost[i] for i in priced)
        proto.linear_constraints.ids.extend(range(rows))
        proto.linear_constraints.lower_bounds.extend(self.row_lower)
        proto.linear_constraints.upper_bounds.extend(self.row_upper)
        order = np.lexsort((self._columns, self._rows))
        matrix = proto.linear_constraint_matrix
        matrix.row_ids.extend(np.array(self._rows, np.int64)[order].tolist())
        matrix.column_ids.extend(np.array(self._columns, np.int64)[order].tolist())
        matrix.coefficients.extend(np.array(self._values)[order].tolist())
        return proto

    def solve(
        self, effort: Effort | float, *, relaxed: bool = False, staged: bool = False, gap: float = 1e-5
    ) -> Answer:
        """Solve with an effort, or for so many seconds; `relaxed` drops integrality. The bound of a failed solve is
        -infinity.

        Relaxations go to GLOP, but `staged` ones, which have several critical tasks, to HiGHS: seven of them on a graph of
        1,000 tasks take it 0.6 s, and GLOP more than 30 s.
        """
        chosen = effort if isinstance(effort, Effort) else Effort(effort)
        result = _run(self._proto(relaxed), chosen, relaxed and not staged, gap)
        if result is None:
            return Answer(-inf, inf, None)
        reason = result.termination.reason
        if reason in (mathopt.TerminationReason.INFEASIBLE, mathopt.TerminationReason.INFEASIBLE_OR_UNBOUNDED):
            return Answer(inf, inf, None, infeasible=True)
        bound = result.termination.objective_bounds.dual_bound
        if reason not in _SOLVED or not result.has_primal_feasible_solution():
            return Answer(bound, inf, None)
        point = np.zeros(len(self.cost))
        for variable, value in result.variable_values().items():
            point[variable.id] = value
        duals = None
        if relaxed and result.has_dual_feasible_solution():
            duals = np.zeros(len(self.row_lower))
            for row, value in result.dual_values().items():
                duals[row.id] = value
        return Answer(bound, result.objective_value(), point, duals=duals)

    def lagrangian_bound(self, duals: npt.NDArray[np.float64]) -> float:
        """The bound that any `duals` (one a row) prove: y · b + Σ min of (c - yA) x over the variables' ranges.

        A variable without an upper limit must cost at least 1 and be at least 0, so that it is at most the optimum z;
        then z ≥ rest - Σ max(0, -reduced cost) z over these variables, which forgives the duals' rounding errors.
        """
        rows, columns, values = self.entries()
        sides = np.where(duals > 0, self.row_lower, self.row_upper)
        duals = np.where(np.isfinite(sides), duals, 0.0)
        reduced = np.array(self.cost) - np.bincount(columns, weights=duals[rows] * values, minlength=len(self.cost))
        free = ~np.isfinite(self.upper)
        upper = np.where(free, 0.0, self.upper)
        rest = (np.where(np.isfinite(sides), sides, 0.0) * duals).sum()
        rest += (np.where(reduced > 0, self.lower, upper) * reduced).sum()
        return float(rest / (1 + np.maximum(0.0, -reduced[free]).sum()))
