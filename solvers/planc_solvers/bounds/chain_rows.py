"""Chain rows: cuts that stop a relaxation of the coarse model from sharing one recomputation between stages.

Take a chain of values v_0, …, v_n, each read by the task that makes the next, all made for the first time before
critical task K_a, and the window of stages a+1, …, b. If v_n is needed in the window and none of the chain is on the
device at K_a or copied in within the window, then every one of the chain is recomputed in the window: v_n has no other
way to return, and each recomputation reads the value before. So for every such chain, with all sums over the window,

    sum (R + I)(v_0) + P_a(v_0) + sum of (P_a + sum I)(v_i) over i > 0  ≥  need(v_n),

where need is 1 if a first execution in the window reads v_n, P_b(v_n), or R of any task that reads v_n. The rows of one
value, and of a value and an input of its producer, are the chains of lengths 0 and 1. A relaxation that keeps a tenth
of each value of a chain violates longer ones: it recomputes the upper part from tenths that were made with a tenth of
the recomputations below.

The most violated chain from each value is found by a shortest path, in time linear in the accesses for each window.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from planc.problem.problem import Origin
from planc_solvers.bounds.linear_model import Terms
from planc_solvers.bounds.relaxation import Coarse

Point = npt.NDArray[np.float64]

VIOLATION = 0.02
"""Least violation of a row that is worth adding."""


class _Need(NamedTuple):
    """How much of a value is needed in a window, and the variable that says so; none for a first execution."""

    amount: float
    variable: int | None


def add_chain_rows(c: Coarse, point: Point) -> int:
    """Add rows that `point` violates, at most one for each value and critical task; their number."""
    added = 0
    for a in range(len(c.critical)):
        best: dict[int, tuple[float, Terms, float]] = {}
        for b in range(a + 1, c.stages.count):
            for value, row in _window(c, point, a, b):
                if value not in best or row[0] < best[value][0]:
                    best[value] = row
        for _, terms, lower in best.values():
            c.model.row(terms, lower=lower)
        added += len(best)
    return added


def _window(c: Coarse, point: Point, a: int, b: int) -> Iterator[tuple[int, tuple[float, Terms, float]]]:
    """For each value the most violated row of the stages a+1 … b: its violation (negative), terms and right side."""
    problem, made = c.problem, [0.0] * len(c.problem.tasks)
    repeats: list[list[int]] = [[] for _ in problem.tasks]
    for task in range(len(problem.tasks)):
        repeats[task] = [x for q in range(a + 1, b + 1) if (x := c.x.recomputed.get((task, q))) is not None]
        made[task] = sum(float(point[x]) for x in repeats[task])
    length: dict[int, float] = {}
    after: dict[int, int] = {}
    needs: dict[int, _Need] = {}
    order = sorted((v for v, q in c.x.present if q == a), key=lambda v: -(_producer(c, v)))
    for value in order:
        if problem.values[value].origin is not Origin.COMPUTED:
            continue
        needs[value] = need = _need(c, point, value, a, b)
        found, chosen = -need.amount, -1
        for task in problem.readers[value]:
            for made_next in problem.tasks[task].writes:
                if made_next != value and length.get(made_next, 1.0) < found:
                    found, chosen = length[made_next], made_next
        held = float(point[c.x.present[value, a]])
        copies = [x for q in range(a + 1, b + 1) if (x := c.x.copied_in.get((value, q))) is not None]
        held += sum(float(point[x]) for x in copies)
        length[value], after[value] = found + held, chosen
        producer = _producer(c, value)
        violation = length[value] + made[producer]
        if violation < -VIOLATION:
            yield value, (violation, *_row(c, value, after, needs, repeats[producer], a, b))


def _producer(c: Coarse, value: int) -> int:
    producer = c.problem.producer[value]
    return -1 if producer is None else producer


def _need(c: Coarse, point: Point, value: int, a: int, b: int) -> _Need:
    if any(a < use <= b for use in c.stages.uses[value]):
        return _Need(1.0, None)
    repeats = ((task, q) for task in c.problem.readers[value] for q in range(a + 1, b + 1))
    found = [x for repeat in repeats if (x := c.x.recomputed.get(repeat)) is not None]
    if (value, b) in c.x.present:
        found.append(c.x.present[value, b])
    if not found:
        return _Need(0.0, None)
    most = max(found, key=lambda x: float(point[x]))
    return _Need(float(point[most]), most)


def _row(
    c: Coarse, value: int, after: dict[int, int], needs: dict[int, _Need], repeats: list[int], a: int, b: int
) -> tuple[Terms, float]:
    terms: Terms = [(x, 1.0) for x in repeats]
    while True:
        terms.append((c.x.present[value, a], 1.0))
        terms.extend((x, 1.0) for q in range(a + 1, b + 1) if (x := c.x.copied_in.get((value, q))) is not None)
        if after[value] < 0:
            break
        value = after[value]
    need = needs[value]
    if need.variable is None:
        return terms, need.amount
    # A chain of several values may end at a task that it began with: R of a writer of two values.
    weights = dict(terms)
    weights[need.variable] = weights.get(need.variable, 0.0) - 1.0
    return list(weights.items()), 0.0
