"""A policy of one's own as a plug-in: swap the values that are idle longest, the largest first, until the budget is met.

    python examples/own_policy.py

A policy sees the problem only: tasks with their times, values with their bytes, the budget. It returns a schedule. planc
simulates it, packs it, verifies the plan and runs it like any other. `--solver own_policy:LongestIdle` finds the class
wherever Python can import it. A package gives it a name of its own with an entry point `planc.solvers`.
"""

import sys
from pathlib import Path

import planc
from planc.enums import Direction
from planc.errors import InfeasibleBudgetError
from planc.problem.bounds import minimum_budget
from planc.problem.problem import Origin, Problem
from planc.schedule.residency import memory_profile
from planc.schedule.schedule import Schedule, Transfer
from planc.schedule.solver import Candidate, SolveOptions
from planc.training import Optimizer
from planc.zoo import ZooOptions, build_step


class LongestIdle:
    """Each value is copied out beside the step after its last early use, and back beside the step before the next."""

    def solve(self, problem: Problem, options: SolveOptions) -> Candidate:  # noqa: ARG002
        """Raises InfeasibleBudgetError where swapping every idle value is not enough."""
        schedule = Schedule(tuple(range(len(problem.tasks))))
        for _, value, last, following in self._idle(problem):
            if max(memory_profile(problem, schedule)) <= problem.budget_bytes:
                break
            out = Transfer(value, Direction.OUT, last + 1, last + 2)
            back = Transfer(value, Direction.IN, following - 1, following)
            copies = sorted((*schedule.copies, out, back), key=lambda copy: (copy.start, copy.stop))
            schedule = Schedule(schedule.steps, tuple(copies))
        if max(memory_profile(problem, schedule)) > problem.budget_bytes:
            need, layer = minimum_budget(problem)
            raise InfeasibleBudgetError("swapping is not enough for this budget", need, layer, problem.budget_bytes)
        return Candidate(schedule, problem.least_duration_ns, "every schedule")

    @staticmethod
    def _idle(problem: Problem) -> list[tuple[int, int, int, int]]:
        """(bytes x idle steps, value, step of the last use, step of the next), the most first."""
        found = []
        for index, value in enumerate(problem.values):
            made, readers = problem.producer[index], problem.readers[index]
            if value.origin is not Origin.COMPUTED or not value.swappable or made is None or not readers:
                continue
            uses = (made, *readers)
            idle, last, following = max((b - a, a, b) for a, b in zip(uses, readers, strict=False))
            if idle > 3:
                found.append((value.bytes * idle, index, last, following))
        return sorted(found, reverse=True)


def main() -> None:
    """A small GPT-2 at 80 % of its liveness peak, planned by this policy and by planc's own."""
    sys.path.insert(0, str(Path(__file__).parent))
    options = ZooOptions(depth=2, width=64, seq=64, batch=8, classes=256)
    model = build_step("gpt2", options, Optimizer("adamw"), device="cuda")
    for solver in ("own_policy:LongestIdle", "mip"):
        plan = planc.compile(model, budget="80%", device="rtx-3060-12", solver=solver, time_limit=5)
        swapped = sum(copy.bytes for copy in plan.copies if copy.direction is Direction.OUT)
        overhead = plan.prediction.step_ns / plan.prediction.unconstrained_step_ns - 1
        print(f"{solver}: {swapped:,} bytes swapped, {100 * overhead:.1f} % over the step of unlimited memory")


if __name__ == "__main__":
    main()
