"""vdnn-all: offload every feature map after its last forward use, prefetch it one layer ahead (Rhu et al., 2016)."""

from planc.enums import Direction
from planc.problem.problem import Problem
from planc.schedule.schedule import Schedule, Transfer
from planc.schedule.solver import Candidate, SolveOptions
from planc_solvers.baselines.policy import only_schedule, saved_values, turning_point


class VdnnAll:
    """The static policy of vDNN-all; parameters and optimizer state stay on the device."""

    def solve(self, problem: Problem, options: SolveOptions) -> Candidate:  # noqa: ARG002
        """The offload of a layer ends with the layer, its prefetch starts one layer early.

        Raises InfeasibleBudgetError when that exceeds the budget.
        """
        chosen = [
            (v, g) for v, g in saved_values(problem, turning_point(problem)).items() if problem.values[v].swappable
        ]
        outs = sorted((_offload(problem, v, last) for v, (last, _) in chosen), key=lambda c: c.start)
        ins = sorted(
            (Transfer(v, Direction.IN, max(need - 1, last + 1), need) for v, (last, need) in chosen),
            key=lambda c: c.start,
        )
        return only_schedule("vdnn-all", problem, Schedule(tuple(range(len(problem.tasks))), (*outs, *ins)))


def _offload(problem: Problem, value: int, last: int) -> Transfer:
    """Beside the last forward reader; behind the producer when nothing else reads the value there."""
    start = last + 1 if problem.producer[value] == last else last
    return Transfer(value, Direction.OUT, start, last + 1)
