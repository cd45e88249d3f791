"""A coarse model's whole-numbered form solved by CP-SAT, which shares nothing with HiGHS: no code, no floating point."""

from dataclasses import dataclass, replace
from fractions import Fraction
from math import inf, lcm

from ortools.sat.python import cp_model

from planc_solvers.bounds.linear_model import LinearModel
from planc_solvers.bounds.relaxation import Coarse

_DENOMINATOR = 1_000_000
"""Coefficients are quotients of small whole numbers: of bytes, times, parts per million. So many parts tell them apart."""


@dataclass(frozen=True)
class Whole:
    """A model in which every decision is all or nothing; times stay rational, being largest values of sums of decisions."""

    model: LinearModel
    decisions: frozenset[int]


def in_whole_numbers(coarse: Coarse) -> Whole:
    """`coarse` with presence, recomputation, copies, residence and forms all or nothing."""
    x = coarse.x
    named = (x.present, x.recomputed, x.copied_in, x.copied_out, x.resident, x.forms)
    decisions = frozenset(number for numbers in named for number in numbers.values())
    whole = [old or number in decisions for number, old in enumerate(coarse.model.integer)]
    return Whole(replace(coarse.model, integer=whole), decisions)


def optimum_by_cp_sat(whole: Whole) -> Fraction | None:
    """The optimum, exact; None where there is no solution. Raises ArithmeticError where CP-SAT does not finish."""
    model, parts = whole.model, _parts(whole.model)
    most = _most(whole, parts)
    program = cp_model.CpModel()
    unit = [1 if number in whole.decisions else parts for number in range(len(model.cost))]
    variables = [
        program.new_int_var(_up(_exact(low) * scale), _down(_exact(high) * scale) if high < inf else most, f"x{number}")
        for number, (low, high, scale) in enumerate(zip(model.lower, model.upper, unit, strict=True))
    ]
    for row, terms in enumerate(_rows(model)):
        weights = {column: _exact(value) * Fraction(parts, unit[column]) for column, value in terms}
        more = lcm(*(weight.denominator for weight in weights.values()), 1)
        total = cp_model.LinearExpr.weighted_sum(
            [variables[column] for column in weights], [int(weight * more) for weight in weights.values()]
        )
        if model.row_lower[row] > -inf:
            program.add(total >= _up(_exact(model.row_lower[row]) * parts * more))
        if model.row_upper[row] < inf:
            program.add(total <= _down(_exact(model.row_upper[row]) * parts * more))
    priced = [number for number, cost in enumerate(model.cost) if cost]
    program.minimize(sum(int(model.cost[number]) * variables[number] for number in priced))
    solver = cp_model.CpSolver()
    solver.parameters.num_workers, solver.parameters.max_time_in_seconds = 1, 60.0
    status = solver.solve(program)
    if status == cp_model.INFEASIBLE:
        return None
    if status != cp_model.OPTIMAL:
        raise ArithmeticError(f"CP-SAT ended with {solver.status_name(status)}")
    return Fraction(round(solver.objective_value), parts)


def _exact(value: float) -> Fraction:
    return Fraction(value).limit_denominator(_DENOMINATOR)


def _parts(model: LinearModel) -> int:
    """Of which all times are multiples: the common denominator of the coefficients and sides."""
    _, _, values = model.entries()
    sides = (side for side in (*model.row_lower, *model.row_upper) if -inf < side < inf)
    return lcm(*(_exact(float(value)).denominator for value in (*values, *sides)))


def _most(whole: Whole, parts: int) -> int:
    """No time of an optimum is above the sum of everything."""
    _, columns, values = whole.model.entries()
    upper = [high if high < inf else 0.0 for high in whole.model.upper]
    most = sum(abs(value) * max(1.0, upper[column]) for column, value in zip(columns, values, strict=True))
    return int(parts * (1 + most + sum(abs(side) for side in whole.model.row_lower if side > -inf)))


def _rows(model: LinearModel) -> list[list[tuple[int, float]]]:
    found: list[list[tuple[int, float]]] = [[] for _ in model.row_lower]
    for row, column, value in zip(*model.entries(), strict=True):
        found[row].append((int(column), float(value)))
    return found


def _up(value: Fraction | float) -> int:
    return -int((-Fraction(value)) // 1)


def _down(value: Fraction | float) -> int:
    return int(Fraction(value) // 1)
