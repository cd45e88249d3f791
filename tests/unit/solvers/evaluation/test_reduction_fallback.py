"""Small values are kept on the device only where the plan that swaps everything else still fits."""

import pytest

from planc.problem.problem import Problem, Task, Value
from planc_solvers.evaluation.reduction import reduced


@pytest.mark.parametrize(("budget", "swappable"), [(1000, True), (1001, True), (1002, False)])
def test_pins_small_values_only_where_swapping_the_others_fits(budget: int, swappable: bool) -> None:
    values = (Value("fixed", 900), Value("small", 2, swappable=True, copy_out_ns=1, copy_in_ns=1))
    tasks = (
        Task("make", 10, (), (0, 1), 902),
        Task("middle", 10, (), (), 100),
        Task("use", 10, (0, 1), (), 0),
    )
    assert reduced(Problem(tasks, values, budget)).values[1].swappable == swappable
