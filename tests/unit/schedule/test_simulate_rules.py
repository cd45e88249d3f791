"""Simulated times of small schedules worked out by hand."""

from dataclasses import replace

import pytest

from planc.enums import Direction
from planc.problem.problem import Contention, Problem, Task, Value
from planc.schedule.schedule import Schedule, Transfer
from planc.schedule.simulate import boundaries, simulate

OUT, IN = Direction.OUT, Direction.IN
PROBLEM = Problem(
    (
        Task("make", 10, (), (0,), 4),
        Task("other", 30, (), (1,), 4),
        Task("use", 10, (0, 1), (), 0),
    ),
    (Value("a", 4, swappable=True, copy_out_ns=12, copy_in_ns=8), Value("b", 4)),
    100,
)
SWAP = Schedule((0, 1, 2), (Transfer(0, OUT, 1, 2), Transfer(0, IN, 2, 2)))


def test_steps_follow_each_other_without_copies() -> None:
    timeline = simulate(PROBLEM, Schedule((0, 1, 2)))
    assert timeline.steps == ((0, 10), (10, 40), (40, 50))
    assert (timeline.step_ns, timeline.stall_ns) == (50, 0)


def test_a_hidden_copy_costs_nothing_and_an_exposed_one_stalls() -> None:
    timeline = simulate(PROBLEM, SWAP)
    assert timeline.copies == ((10, 22), (40, 48))
    assert (timeline.step_ns, timeline.stall_ns) == (58, 8)


def test_a_copy_in_waits_for_the_copy_out_that_makes_its_content() -> None:
    early = Schedule((0, 1, 2), (Transfer(0, OUT, 1, 1), Transfer(0, IN, 1, 2)))
    timeline = simulate(PROBLEM, early)
    assert timeline.copies == ((10, 22), (22, 30))
    assert timeline.steps[1] == (22, 52)
    assert timeline.step_ns == 62


@pytest.mark.parametrize(
    ("contention", "step_ns"),
    [
        (Contention(compute_one_copy_ppm=500_000), 62),
        (Contention(copy_compute_ppm=500_000), 58),
        (Contention(copy_duplex_ppm=500_000), 58),
    ],
)
def test_engines_slow_each_other_down(contention: Contention, step_ns: int) -> None:
    """During the 12 ns of the copy out compute does 8 ns of work: the other 4 are lost."""
    assert simulate(replace(PROBLEM, contention=contention), SWAP).step_ns == step_ns


def test_a_boundary_is_paid_where_copies_start_or_are_awaited() -> None:
    assert boundaries(PROBLEM, SWAP) == {1, 2}
    assert simulate(replace(PROBLEM, boundary_ns=5), SWAP).step_ns == 58 + 10
    assert simulate(replace(PROBLEM, boundary_ns=5), Schedule((0, 1, 2))).step_ns == 50
