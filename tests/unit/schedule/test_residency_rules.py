"""What residencies, memory and host profiles say of hand-made schedules, and which schedules they refuse."""

from dataclasses import replace

import pytest

from planc.enums import Direction
from planc.problem.problem import Origin, Problem, Task, Value
from planc.schedule.residency import ScheduleError, host_bytes, memory_profile, residencies, without_idle_starts
from planc.schedule.schedule import Schedule, Transfer

OUT, IN = Direction.OUT, Direction.IN


def _problem() -> Problem:
    """x → a → b → loss and back; w is read by t0 and t4 and updated, unread, by t5."""
    values = (
        Value("x", 4, Origin.BATCH, True, 4, 4),
        Value("w", 100, Origin.STATE, True, 10, 10),
        Value("a", 10, Origin.COMPUTED, True, 10, 10),
        Value("b", 20, Origin.COMPUTED, True, 20, 20),
        Value("g", 30),
    )
    tasks = (
        Task("t0", 10, (0, 1), (2,), 10, recomputable=True),
        Task("t1", 10, (2,), (3,), 20, recomputable=True),
        Task("t2", 10, (3,), (), 1),
        Task("t3", 10, (3,), (), 1),
        Task("t4", 10, (2, 1), (4,), 30),
        Task("t5", 10, (4,), (1,), 0),
    )
    return Problem(tasks, values, 1 << 30)


STEPS = tuple(range(6))


def test_values_are_held_from_making_to_last_reader_and_state_throughout() -> None:
    assert memory_profile(_problem(), Schedule(STEPS)) == [114, 130, 131, 131, 140, 130]


def test_a_swapped_gap_frees_its_bytes_between_the_copies() -> None:
    copies = (Transfer(2, OUT, 1, 2), Transfer(2, IN, 3, 4))
    assert memory_profile(_problem(), Schedule(STEPS, copies)) == [114, 130, 121, 131, 140, 130]


def test_a_value_only_mutated_counts_as_accessed() -> None:
    problem = _problem()
    assert problem.accesses[5] == (4, 1)
    assert problem.entry_bytes(5) == 130
    home = frozenset({1})
    copies = (Transfer(1, IN, 0, 0), Transfer(1, OUT, 6, 6))
    assert memory_profile(problem, Schedule(STEPS, copies, home))[5] == 130


@pytest.mark.parametrize(
    ("steps", "copies", "home", "says"),
    [
        ((0, 1, 2, 3, 4), (), (), "never executed"),
        ((0, 1, 2, 3, 4, 5, 2), (), (), "cannot be recomputed"),
        ((0, 1, 2, 3, 4, 5, 0), (), (), "after its update"),
        (STEPS, (), (1,), "not on the device"),
        (STEPS, (Transfer(1, IN, 0, 1),), (1,), "does not wait"),
        (STEPS, (Transfer(1, IN, 0, 0),), (1,), "not there at the end"),
        (STEPS, (Transfer(1, OUT, 4, 6),), (), "being copied out"),
        (STEPS, (Transfer(4, OUT, 5, 6),), (), "not swappable"),
        (STEPS, (Transfer(2, IN, 2, 3),), (), "host has no copy"),
        (STEPS, (Transfer(3, OUT, 1, 2),), (), "not on the device"),
        (STEPS, (Transfer(2, OUT, 3, 2),), (), "out of order"),
        (STEPS, (Transfer(3, OUT, 3, 4), Transfer(2, OUT, 1, 2)), (), "engine order"),
    ],
)
def test_schedules_that_do_not_compute_the_problem_are_refused(
    steps: tuple[int, ...], copies: tuple[Transfer, ...], home: tuple[int, ...], says: str
) -> None:
    with pytest.raises(ScheduleError, match=says):
        memory_profile(_problem(), Schedule(steps, copies, frozenset(home)))


def test_a_task_after_the_update_must_not_run_before_it() -> None:
    problem = _problem()
    late = Problem((*problem.tasks, Task("t6", 1, (1,), (), 0)), problem.values, 1 << 30)
    with pytest.raises(ScheduleError, match="before its update"):
        memory_profile(late, Schedule((0, 1, 2, 3, 4, 6, 5)))
    memory_profile(late, Schedule((0, 1, 2, 3, 4, 5, 6)))


def test_every_value_that_is_ever_on_the_host_has_one_slot_there() -> None:
    problem = _problem()
    there_and_back = (Transfer(2, OUT, 1, 2), Transfer(2, IN, 3, 4))
    home = (Transfer(1, IN, 0, 0), *there_and_back, Transfer(1, OUT, 6, 6))
    assert host_bytes(problem, Schedule(STEPS)) == 0
    assert host_bytes(problem, Schedule(STEPS, there_and_back)) == 10
    assert host_bytes(problem, Schedule(STEPS, home, frozenset({1}))) == 110
    assert host_bytes(replace(problem, host_alignment=64), Schedule(STEPS, home, frozenset({1}))) == 128 + 64


def test_a_copy_at_the_start_that_goes_unread_is_left_out() -> None:
    problem = replace(
        _problem(),
        values=(*_problem().values[:1], Value("w", 100, Origin.CONSTANT, True, 10, 10), *_problem().values[2:]),
    )
    problem = replace(problem, tasks=(*problem.tasks[:5], replace(problem.tasks[5], writes=())))
    schedule = Schedule(STEPS, (Transfer(0, IN, 0, 0), Transfer(1, IN, 0, 0)))
    found = residencies(problem, schedule)
    tidy = without_idle_starts(problem, schedule, found)
    assert tidy.host_start == {0, 1}
    assert memory_profile(problem, schedule) == [114, 130, 131, 131, 140, 130]
    assert memory_profile(problem, tidy) == [114, 130, 131, 131, 140, 30]
    assert without_idle_starts(problem, Schedule(STEPS), residencies(problem, Schedule(STEPS))) == Schedule(STEPS)


def test_an_unread_value_goes_to_the_host_only_where_there_is_room() -> None:
    problem = replace(_problem(), values=(*_problem().values, Value("unread", 50, Origin.CONSTANT)))
    schedule, unread = Schedule(STEPS), len(problem.values) - 1
    found = residencies(problem, schedule)
    assert without_idle_starts(problem, schedule, found).host_start == {unread}
    assert without_idle_starts(replace(problem, host_budget_bytes=50), schedule, found).host_start == {unread}
    assert without_idle_starts(replace(problem, host_budget_bytes=49), schedule, found) is schedule
