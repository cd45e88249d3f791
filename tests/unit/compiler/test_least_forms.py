"""The smallest plan that is known computes what it recomputes in the form it had: its bits depend on no other."""

from planc.compiler.least import _schedules
from planc.problem.problem import Alternative, Problem, Task, Value
from planc.schedule.schedule import Schedule
from planc.schedule.solver import Candidate, SolveOptions

PROBLEM = Problem(
    (
        Task("conv", 30, (), (0,), 40, recomputable=True, alternatives=(Alternative("lean", 50, 6),)),
        Task("relu", 10, (0,), (1,), 5),
        Task("other", 30, (0, 1), (2,), 30),
    ),
    (Value("a", 5), Value("b", 5), Value("c", 5)),
    1000,
)


class InTwoForms:
    """Runs the first task twice, each time in another form."""

    def solve(self, problem: Problem, options: SolveOptions) -> Candidate:
        return Candidate(Schedule((0, 1, 0, 2), choices=(0, 0, 1, 0)), problem.least_duration_ns, "every schedule")


def test_every_execution_of_a_layer_has_one_form() -> None:
    found = list(_schedules(PROBLEM, InTwoForms()))
    assert found
    assert {solution.schedule.choices for solution in found} == {(1, 0, 1, 0)}
