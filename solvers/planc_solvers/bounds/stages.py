"""The stages into which critical tasks cut a step, and how far each value and each recomputation can matter.

The critical tasks K_0 < … < K_{m-1} cut the step into stages 0 … m; stage k ends where K_k starts for the first time.
"""

from dataclasses import dataclass

import numpy as np

from planc.problem.problem import Origin, Problem


@dataclass(frozen=True, slots=True)
class Stages:
    """Of one choice of critical tasks. Lists are by task (`of_task`, `last_repeat`) or by value."""

    problem: Problem
    critical: tuple[int, ...]
    of_task: list[int]
    """Stage of each task's first execution."""
    birth: list[int]
    """Stage in which a value is made for the first time; 0 for what is not computed."""
    uses: list[list[int]]
    """Stages in which first executions access a value, in order."""
    horizon: list[int]
    """Last stage in which a value may be wanted, recomputations included."""
    last_repeat: list[int]
    """Last stage in which recomputing a task may help; -1 for those that are not recomputable."""

    @property
    def count(self) -> int:
        """Number of stages."""
        return len(self.critical) + 1

    @property
    def last(self) -> int:
        """The last stage."""
        return len(self.critical)

    def before(self, task: int) -> int:
        """Stage in which the moment just before `task` first starts lies."""
        return int(np.searchsorted(self.critical, task, side="left"))

    def first_return(self, value: int) -> int:
        """First stage for which `value` may have to come back: it is there in the one before without being asked for."""
        origin = self.problem.values[value].origin
        return self.birth[value] + 1 if origin is Origin.COMPUTED else 1 if origin is Origin.BATCH else 0


def stages_of(problem: Problem, critical: tuple[int, ...]) -> Stages:
    """The stages of `problem` between the tasks `critical` (increasing, at least one)."""
    of_task = np.searchsorted(critical, np.arange(len(problem.tasks)), side="right").tolist()
    birth = [0 if p is None else of_task[p] for p in problem.producer]
    uses = _uses(problem, of_task)
    horizon = [
        len(critical)
        if v.needed_after_step or v.origin in (Origin.STATE, Origin.CONSTANT)
        else used[-1]
        if used
        else made
        for v, used, made in zip(problem.values, uses, birth, strict=True)
    ]
    stages = Stages(problem, critical, of_task, birth, uses, horizon, [-1] * len(problem.tasks))
    # From the last task on: what a recomputation reads matters as long as what it makes.
    for task in range(len(problem.tasks) - 1, -1, -1):
        if problem.tasks[task].recomputable:
            wanted = max((horizon[v] for v in problem.tasks[task].writes), default=-1)
            stages.last_repeat[task] = min(wanted, _limit(stages, task))
            for value in problem.accesses[task]:
                horizon[value] = max(horizon[value], stages.last_repeat[task])
    return stages


def _uses(problem: Problem, of_task: list[int]) -> list[list[int]]:
    uses: list[list[int]] = [[] for _ in problem.values]
    for task, accessed in enumerate(problem.accesses):
        for value in accessed:
            if not uses[value] or uses[value][-1] != of_task[task]:
                uses[value].append(of_task[task])
    return uses


def _limit(stages: Stages, task: int) -> int:
    """Last stage in which `task` still finds the old versions of the state that it reads."""
    limit = stages.last
    for value in stages.problem.accesses[task]:
        mutator = stages.problem.mutator[value]
        if mutator is not None and task < mutator:
            limit = min(limit, stages.before(mutator))
    return limit
