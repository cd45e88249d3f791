"""poet: paging and rematerialisation in one mixed-integer program (Patil et al., 2022).

Patil, Jain, Dutta, Stoica and Gonzalez, POET: Training Neural Networks on Tiny Devices with Integrated
Rematerialization and Paging, ICML 2022. Checkmate's model with In, Out and a host copy. Its objective is energy; with
the durations of a problem, a recomputation costs its time and a copy next to nothing, because POET gives copies no
time: what its plans wait for them shows in the simulation. One thing is mended, without which its plans would not fit:
a fetched value counts as held in the stage in which it is fetched.
"""

from planc.enums import Direction
from planc.problem.problem import Problem
from planc.schedule.schedule import Schedule, Transfer
from planc.schedule.solver import Candidate, SolveOptions
from planc_solvers.baselines.exact import solved
from planc_solvers.baselines.stage_model import Point, StageModel
from planc_solvers.baselines.transfers import engine_order

MOST_ROWS = 150_000
"""Half of Checkmate's: paging doubles the model."""


class Poet:
    """The exact model with paging, within the time limit."""

    def solve(self, problem: Problem, options: SolveOptions) -> Candidate:
        """Raises as `solved`."""
        return solved("poet", problem, options, MOST_ROWS, _schedule, paging=True)


def _schedule(built: StageModel, point: Point) -> Schedule:
    """Stages end to end; a fetch runs before its stage's first reader, a copy out during its stage."""
    problem, stages = built.problem, built.sequence(point)
    begins, steps = [0], list[int]()
    for tasks in stages:
        steps += tasks
        begins.append(len(steps))
    copies = []
    for (stage, value), variable in built.fetched.items():
        if point[variable] > 0.5:
            span = range(begins[stage], begins[stage + 1])
            need = next((p for p in span if value in problem.accesses[steps[p]]), begins[stage + 1])
            copies.append(Transfer(value, Direction.IN, begins[stage], need))
    for (stage, value), variable in built.sent.items():
        if point[variable] > 0.5:
            copies.append(Transfer(value, Direction.OUT, begins[stage], begins[stage + 1]))
    return Schedule(tuple(steps), engine_order(copies))
