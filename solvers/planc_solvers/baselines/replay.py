"""Sequences in which values that were dropped are computed again where they are read.

The first executions stay in the given order. Before a task of the backward pass that reads dropped values, the tasks
that make them run again, with those that make their dropped inputs in turn; what is not dropped is there.
"""

from collections.abc import Callable, Iterable

from planc.problem.problem import Problem
from planc.problem.remaking import makers
from planc_solvers.baselines.training_step import deadlines


def droppable(problem: Problem, wanted: Iterable[int], start: int) -> frozenset[int]:
    """Those of the `wanted` values, made before task `start`, that can be made again wherever tasks from `start` on
    need them.

    Their task must be recomputable and must not read state that is updated before the last such need, be it by a reader
    or by another dropped value that is made from it. What an update of state reads, such as a batch-norm's statistics, is
    no feature map and stays: one task may update the state of many layers.
    """
    return last_needs(problem, wanted, start, start)[0]


def last_needs(problem: Problem, wanted: Iterable[int], start: int, stop: int) -> tuple[frozenset[int], dict[int, int]]:
    """As `droppable`, of values made before task `stop` and needed from `start` on; and the last task that needs each
    value of the problem, at first hand or to make others again."""
    updating = {v for task in problem.tasks if task.phase == "update" for v in task.reads}
    candidates, deadline = set(wanted) - updating, deadlines(problem)
    needed = {v: max((r for r in readers if r >= start), default=-1) for v, readers in enumerate(problem.readers)}
    found: set[int] = set()
    for task in range(stop - 1, -1, -1):
        info = problem.tasks[task]
        made = [v for v in info.writes if v in candidates and problem.producer[v] == task]
        used = max((needed[v] for v in made), default=-1)
        if not made or not info.recomputable or used > deadline[task]:
            continue
        found.update(v for v in made if not problem.values[v].needed_after_step)
        for value in info.reads:
            needed[value] = max(needed[value], used)
    return frozenset(found), needed


def replayed(
    problem: Problem,
    dropped: frozenset[int],
    start: int,
    kept: Callable[[int], bool] = lambda _: True,
    together: Callable[[int], Iterable[int]] = lambda _: (),
) -> tuple[int, ...]:
    """The sequence in which `dropped` values are made again from task `start` on.

    A value for which `kept` holds stays, once made again, until its last reader; others are made again for each reader.
    `together` names for a dropped value others that are made again with it, where they are still read.
    """
    steps = list(range(start))
    present: set[int] = set()
    last_read = [max(readers, default=-1) for readers in problem.readers]
    for task in range(start, len(problem.tasks)):
        wanted = [v for v in problem.accesses[task] if v in dropped and v not in present]
        wanted += [w for v in wanted for w in together(v) if w in dropped and w not in present and last_read[w] >= task]
        tasks = makers(problem, wanted, dropped, present)
        steps += tasks
        present.update(v for t in tasks for v in problem.tasks[t].writes if v in dropped and kept(v))
        steps.append(task)
    return tuple(steps)


def chain_ns(problem: Problem, value: int, dropped: frozenset[int]) -> int:
    """Time (ns) of making `value` again, with those `dropped` values that it is made from."""
    return sum(problem.tasks[t].duration_ns for t in makers(problem, [value], dropped))
