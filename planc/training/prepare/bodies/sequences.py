"""Running products, reversed sequences, and determinants."""

from typing import Any

import numpy as np

from planc.training.prepare.bodies.body import Body, Call, body


@body("CumProd")
def cum_prod(call: Call, made: Body) -> str:
    """All prefixes multiplied in log2(n) steps (Hillis and Steele, 1986); exact where factors are 0."""
    shape = call.shape(0)
    axis = int(np.ravel(call.constant(1))[0]) % len(shape)
    size, current = shape[axis], "x0"
    reverse = bool(call.attributes.get("reverse", 0))
    if reverse:
        current = made.flipped(current, axis)
    if call.attributes.get("exclusive", 0):
        current = _shifted(made, current, shape, axis, 1)
    distance = 1
    while distance < size:
        current = made.mul(current, _shifted(made, current, shape, axis, distance))
        distance *= 2
    return made.flipped(current, axis) if reverse else current


def _shifted(made: Body, a: str, shape: tuple[int, ...], axis: int, distance: int) -> str:
    """`a` moved up by `distance` along an axis, ones before it."""
    ones = made.numbers(np.ones((*shape[:axis], distance, *shape[axis + 1 :])))
    return made.op("Concat", ones, made.sliced(a, axis, 0, shape[axis] - distance), axis=axis)


@body("ReverseSequence")
def reverse_sequence(call: Call, made: Body) -> str:
    """The first elements of every sequence in reverse, at positions computed from the lengths."""
    time, batch = int(call.attributes.get("time_axis", 0)), int(call.attributes.get("batch_axis", 1))
    shape = call.shape(0)
    rows: list[Any] = [1] * len(shape)
    rows[batch] = -1
    lengths = made.viewed("x1", rows)
    axes = [1] * len(shape)
    axes[time] = shape[time]
    at = made.constant(np.arange(shape[time], dtype=np.int64).reshape(axes))
    turned = made.op("Sub", made.op("Sub", lengths, made.constant(np.array(1, np.int64))), at)
    places = made.op("Where", made.op("Less", at, lengths), turned, at)
    return made.op("GatherElements", "x0", made.op("Expand", places, made.ints(shape)), axis=time)


_LARGEST = 32
"""Rows of a matrix whose elimination is written out."""


@body("Det")
def determinant(call: Call, made: Body) -> str:
    """The product of the pivots of an elimination with row exchanges, written out (Golub and Van Loan, 3.4).

    Raises ModelError for matrices of more than 32 rows.
    """
    *batch, size, _ = call.shape(0)
    if size > _LARGEST:
        raise call.refuse(f"the gradient of a determinant of {size} rows; at most {_LARGEST} are written out")
    current, found = made.viewed("x0", [int(np.prod(batch)), size, size]), made.numbers(1)
    for left in range(size, 0, -1):
        current, factor = _eliminated(made, current, int(np.prod(batch)), left)
        found = made.mul(found, factor)
    return made.viewed(found, batch)


def _eliminated(made: Body, a: str, count: int, size: int) -> tuple[str, str]:
    """[count, size - 1, size - 1]: what is left of `a` below its largest pivot, and that pivot with the sign [count]."""
    column = made.sliced(a, 2, 0, 1)
    best = made.op("ArgMax", made.op("Abs", column), axis=1, keepdims=1)
    pivot_row = made.op("GatherElements", a, made.op("Expand", best, made.ints([count, 1, size])), axis=1)
    pivot = made.viewed(made.sliced(pivot_row, 2, 0, 1), [count])
    moved = made.op("Equal", best, made.constant(np.zeros((1, 1, 1), np.int64)))
    sign = made.op("Where", made.viewed(moved, [count]), made.numbers(1), made.numbers(-1))
    if size == 1:
        return a, made.mul(pivot, sign)
    numbers = made.constant(np.arange(1, size, dtype=np.int64).reshape(1, size - 1, 1))
    first = made.sliced(a, 1, 0, 1)
    rest = made.op("Where", made.op("Equal", numbers, best), first, made.sliced(a, 1, 1, size))
    zero = made.op("Equal", pivot, made.numbers(0))
    safe = made.viewed(made.op("Where", zero, made.numbers(1), pivot), [count, 1, 1])
    factors = made.op("Div", made.sliced(rest, 2, 0, 1), safe)
    lower = made.op("Sub", made.sliced(rest, 2, 1, size), made.mul(factors, made.sliced(pivot_row, 2, 1, size)))
    return lower, made.mul(pivot, sign)
