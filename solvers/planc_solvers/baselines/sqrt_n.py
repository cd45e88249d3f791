"""sqrt-n: keep √n checkpoints, recompute a segment when the backward pass reaches it (Chen et al., 2016)."""

from math import isqrt

from planc.problem.problem import Problem
from planc.schedule.schedule import Schedule
from planc.schedule.solver import Candidate, SolveOptions
from planc_solvers.baselines.policy import only_schedule, turning_point


class SqrtN:
    """Recompute only, with about √n equal segments of the n forward tasks that may be recomputed."""

    def solve(self, problem: Problem, options: SolveOptions) -> Candidate:  # noqa: ARG002
        """The checkpointed sequence. Raises InfeasibleBudgetError when it exceeds the budget."""
        return only_schedule("sqrt-n", problem, Schedule(_sequence(problem)))


def _sequence(problem: Problem) -> tuple[int, ...]:
    turn = turning_point(problem)
    segments = _segments(problem, turn)
    segment = {task: index for index, tasks in enumerate(segments) for task in tasks}
    checkpoints = _checkpoints(problem, segment, turn)
    repeats = [[t for t in tasks if not checkpoints.issuperset(problem.tasks[t].writes)] for tasks in segments]
    owner = {v: i for i, tasks in enumerate(repeats) for t in tasks for v in problem.tasks[t].writes}
    steps: list[int] = []
    restored: set[int] = set()
    for task, accessed in enumerate(problem.accesses):
        wanted = {owner[v] for v in accessed if v in owner and v not in checkpoints} if task > turn else set()
        for index in sorted(wanted - restored):
            steps.extend(_still_read(problem, repeats[index], task))
        restored |= wanted
        steps.append(task)
    return tuple(steps)


def _still_read(problem: Problem, tasks: list[int], position: int) -> list[int]:
    """Those of `tasks` whose results are read from `position` on, or by one of them that is itself kept.

    The others must not run again: the state that they read may have been updated by then.
    """
    read = {value for task in range(position, len(problem.tasks)) for value in problem.accesses[task]}
    kept = []
    for task in reversed(tasks):
        if not read.isdisjoint(problem.tasks[task].writes):
            kept.append(task)
            read.update(problem.accesses[task])
    return kept[::-1]


def _segments(problem: Problem, turn: int) -> list[list[int]]:
    """Equal runs of the forward tasks that the backward pass may still repeat: their state is updated after it."""
    last = len(problem.tasks)
    forward = [
        task
        for task in range(turn)
        if problem.tasks[task].recomputable
        and min((m for v in problem.accesses[task] if (m := problem.mutator[v]) is not None), default=last) > turn
    ]
    length = max(1, isqrt(len(forward)))
    return [forward[i : i + length] for i in range(0, len(forward), length)]


def _checkpoints(problem: Problem, segment: dict[int, int], turn: int) -> set[int]:
    """Values that another forward segment reads: they stay."""
    return {
        value
        for value, producer in enumerate(problem.producer)
        if producer in segment
        and any(r <= turn and segment.get(r, -1) != segment[producer] for r in problem.readers[value])
    }
