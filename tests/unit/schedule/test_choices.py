"""Forms of a task as decisions of a schedule: what they need, how long they take, where they end a segment."""

from dataclasses import replace

import pytest

from planc.problem.bounds import minimum_budget
from planc.problem.problem import Alternative, Problem, Task, Value
from planc.schedule.residency import ScheduleError, memory_profile
from planc.schedule.schedule import Schedule
from planc.schedule.simulate import boundaries, simulate
from planc.schedule.solver import in_one_form

LEAN = Alternative("lean", 50, 6)
PROBLEM = Problem(
    (
        Task("conv", 30, (), (0,), 40, recomputable=True, alternatives=(LEAN, Alternative("direct", 20, 60))),
        Task("relu", 10, (0,), (1,), 5),
        Task("other", 30, (1,), (2,), 30, alternatives=(LEAN,)),
    ),
    (Value("a", 5), Value("b", 5), Value("c", 5)),
    1000,
)


def test_a_choice_says_what_a_step_needs_and_how_long_it_takes() -> None:
    plain, lean = Schedule((0, 1, 2)), Schedule((0, 1, 2), choices=(2, 0, 1))
    assert memory_profile(PROBLEM, plain) == [40, 10, 35]
    assert memory_profile(PROBLEM, lean) == [60, 10, 11]
    assert simulate(PROBLEM, plain).step_ns == 70
    assert simulate(PROBLEM, lean).steps == ((0, 20), (20, 30), (30, 80))


def test_each_execution_of_a_task_has_its_own_choice() -> None:
    again = Schedule((0, 1, 0, 2), choices=(0, 0, 1, 0))
    assert memory_profile(PROBLEM, again)[0] == 40
    assert simulate(PROBLEM, again).step_ns == 30 + 10 + 50 + 30


def test_bounds_count_the_fastest_and_the_leanest_form() -> None:
    assert (PROBLEM.base_duration_ns, PROBLEM.least_duration_ns) == (70, 60)
    assert minimum_budget(PROBLEM) == (11, "other")


def test_a_segment_ends_where_the_form_changes_but_not_at_a_task_without_a_choice() -> None:
    problem = replace(PROBLEM, boundary_ns=1000)
    assert boundaries(problem, Schedule((0, 1, 2), choices=(1, 0, 1))) == frozenset()
    assert boundaries(problem, Schedule((0, 1, 2), choices=(1, 0, 0))) == {2}
    assert simulate(problem, Schedule((0, 1, 2), choices=(1, 0, 0))).step_ns == 1090


@pytest.mark.parametrize("choices", [(0,), (0, 1, 0), (3, 0, 0), (-1, 0, 0)])
def test_a_choice_that_a_task_lacks_is_refused(choices: tuple[int, ...]) -> None:
    with pytest.raises(ScheduleError, match="form"):
        memory_profile(PROBLEM, Schedule((0, 1, 2), choices=choices))


def test_one_form_of_a_task_is_the_leanest_that_it_has() -> None:
    again = Schedule((0, 1, 0, 2), choices=(2, 0, 1, 0))
    assert in_one_form(PROBLEM, again).choices == (1, 0, 1, 0)
    assert in_one_form(PROBLEM, Schedule((0, 1, 2))) == Schedule((0, 1, 2))
