"""caffe: every tensor in an allocation of its own for the whole run, activations in place (Jia et al., 2014).

Caffe frees nothing and shares nothing between layers: each blob has its data and its gradient from the start of the
training to its end. Its network definitions run activations in place where no other layer needs their input, so that
a layer's input and output, and their gradients, are one allocation. Of temporaries we let all layers share one as large
as the neediest asks for, which is kinder than Caffe, where every convolution keeps its own.
"""

from planc.errors import InfeasibleBudgetError
from planc.problem.problem import Origin, Problem
from planc.schedule.schedule import Schedule
from planc.schedule.solver import Candidate, SolveOptions
from planc.units import format_bytes
from planc_solvers.baselines.allocators import temporary_bytes
from planc_solvers.baselines.selection import candidate
from planc_solvers.baselines.training_step import ACTIVATIONS


class Caffe:
    """No freeing, no reuse, no copy, no recomputation."""

    def solve(self, problem: Problem, options: SolveOptions) -> Candidate:  # noqa: ARG002
        """The given order. Raises InfeasibleBudgetError when all tensors together exceed the budget."""
        need = allocated_bytes(problem)
        if need > problem.budget_bytes:
            raise InfeasibleBudgetError(
                f"caffe allocates {format_bytes(need)} for all tensors together, but tensors may take "
                f"{format_bytes(problem.budget_bytes)}; choose a solver that reuses memory, such as keep-all or mip",
                need,
                "all layers",
                problem.budget_bytes,
            )
        return candidate(problem, Schedule(tuple(range(len(problem.tasks)))), need)


def allocated_bytes(problem: Problem) -> int:
    """Bytes of all values, those written in place counted once, and of the largest temporary."""
    in_place = {v for t in range(len(problem.tasks)) for v in _written_in_place(problem, t)}
    return sum(v.bytes for i, v in enumerate(problem.values) if i not in in_place) + temporary_bytes(problem)


def _written_in_place(problem: Problem, task: int) -> list[int]:
    """What an activation writes over a computed input of equal size that nobody else reads."""
    info = problem.tasks[task]
    if info.kind not in ACTIVATIONS:
        return []
    free = [
        v
        for v in info.reads
        if problem.values[v].origin is Origin.COMPUTED
        and problem.readers[v] == (task,)
        and not problem.values[v].needed_after_step
    ]
    found = []
    for written in info.writes:
        over = next((v for v in free if problem.values[v].bytes == problem.values[written].bytes), None)
        if over is not None:
            free.remove(over)
            found.append(written)
    return found
