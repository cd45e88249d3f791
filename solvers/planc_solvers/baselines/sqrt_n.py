"""sqrt-n: keep √n checkpoints, recompute a segment when the backward pass reaches it (Chen et al., 2016).

Chen, Xu, Zhang and Guestrin, Training Deep Nets with Sublinear Memory Cost, arXiv 1604.06174. The n forward tasks that
may run again are split into about √n equal segments. What another segment reads stays; the rest of a segment is made
again as a whole when the backward pass first needs some of it.
"""

from math import isqrt

from planc.problem.problem import Problem
from planc.schedule.schedule import Schedule
from planc.schedule.solver import Candidate, SolveOptions
from planc_solvers.baselines.replay import droppable, replayed
from planc_solvers.baselines.selection import first_fitting
from planc_solvers.baselines.training_step import backward_start


class SqrtN:
    """Recompute only, with about √n equal segments of the n forward tasks that may be recomputed."""

    def solve(self, problem: Problem, options: SolveOptions) -> Candidate:  # noqa: ARG002
        """The checkpointed sequence. Raises InfeasibleBudgetError when it exceeds the budget."""
        return first_fitting("sqrt-n", problem, [Schedule(_sequence(problem))])


def _sequence(problem: Problem) -> tuple[int, ...]:
    start = backward_start(problem)
    forward = [task for task in range(start) if problem.tasks[task].recomputable]
    length = max(1, isqrt(len(forward)))
    segment = {task: index // length for index, task in enumerate(forward)}
    inner = {
        value
        for value, producer in enumerate(problem.producer)
        if producer in segment
        and all(segment.get(r, -1) == segment[producer] for r in problem.readers[value] if r < start)
    }
    dropped = droppable(problem, inner, start)
    members: dict[int, list[int]] = {}
    for value in sorted(dropped):
        members.setdefault(segment[problem.producer[value] or 0], []).append(value)
    return replayed(problem, dropped, start, together=lambda v: members[segment[problem.producer[v] or 0]])
