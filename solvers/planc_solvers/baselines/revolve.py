"""revolve: the fewest forward steps for a number of checkpoints on a uniform chain (Griewank and Walther, 2000).

Griewank and Walther, Algorithm 799: revolve, an implementation of checkpointing for the reverse or adjoint mode of
computational differentiation, ACM TOMS 26(1), 2000. All stages count as equal in time, all checkpoints as equal in
size. With c checkpoints beside the input, l stages are reversed in opt(l, c) = min over k of k + opt(l - k, c - 1) +
opt(k, c) forward steps. A stage's own results are saved just before its backward pass. The number of checkpoints is the
largest whose schedule fits, more exactly: the fastest schedule that does.
"""

from collections.abc import Iterator
from functools import cache

from planc.problem.problem import Problem
from planc.schedule.schedule import Schedule
from planc.schedule.solver import Candidate, SolveOptions
from planc_solvers.baselines.selection import fastest_fitting
from planc_solvers.baselines.stages import chain_of

Action = tuple[str, int]


class Revolve:
    """Recompute only, by the number of stages and checkpoints alone."""

    def solve(self, problem: Problem, options: SolveOptions) -> Candidate:  # noqa: ARG002
        """Raises InfeasibleBudgetError when no number of checkpoints fits the budget."""
        return fastest_fitting("revolve", problem, _schedules(problem))


def _schedules(problem: Problem) -> Iterator[Schedule]:
    chain = chain_of(problem)
    yield Schedule(tuple(range(len(problem.tasks))))
    for checkpoints in _counts(len(chain.stages)):
        schedule = chain.schedule(reversal(0, len(chain.stages) - 1, checkpoints))
        if schedule is not None:
            yield schedule


def _counts(stages: int) -> list[int]:
    """Numbers of checkpoints that are tried: all small ones, then about every eighth more."""
    found, count = [], 0
    while count < stages:
        found.append(count)
        count += max(1, count // 8)
    return found


def reversal(first: int, last: int, checkpoints: int) -> Iterator[Action]:
    """Actions that reverse the stages `first` … `last`, whose input is there, with so many checkpoints to spend."""
    if first == last:
        yield "forward", first
        yield "backward", first
        return
    if not checkpoints:
        for stage in range(last, first - 1, -1):
            yield from (("forward", before) for before in range(first, stage + 1))
            yield "backward", stage
        return
    split = best_split(last - first + 1, checkpoints)
    yield from (("forward", stage) for stage in range(first, first + split))
    yield from reversal(first + split, last, checkpoints - 1)
    yield from reversal(first, first + split - 1, checkpoints)


@cache
def forward_steps(stages: int, checkpoints: int) -> int:
    """opt(l, c): forward steps of the optimal reversal, those just before a backward step included."""
    if stages == 1:
        return 1
    if not checkpoints:
        return stages * (stages + 1) // 2
    split = best_split(stages, checkpoints)
    return split + forward_steps(stages - split, checkpoints - 1) + forward_steps(split, checkpoints)


@cache
def best_split(stages: int, checkpoints: int) -> int:
    """Stages before the next checkpoint."""
    return min(
        range(1, stages),
        key=lambda k: k + forward_steps(stages - k, checkpoints - 1) + forward_steps(k, checkpoints),
    )
