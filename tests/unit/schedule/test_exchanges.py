"""Exchanges on their engine, timed by hand."""

import pytest

from planc.problem.problem import Contention, Problem, Task, Value
from planc.schedule.schedule import Schedule
from planc.schedule.simulate import boundaries, exchanges, simulate, unlimited_ns


def step(first: int, between: int, exchange: int, update: int, **contention: int) -> Problem:
    """A gradient, work beside its exchange, the exchange, and an update that reads the sum."""
    values = (Value("g", 64), Value("sum", 64), Value("other", 64))
    tasks = (
        Task("gradient", first, (), (0,), 0),
        Task("between", between, (), (2,), 0),
        Task("exchange", 0, (0,), (1,), 0, exchange_ns=exchange),
        Task("update", update, (1, 2), (), 0),
    )
    return Problem(tasks, values, 1 << 20, contention=Contention(**contention))


@pytest.mark.parametrize(
    ("exchange", "began", "ended", "total", "stall"),
    [(15, 10, 25, 35, 0), (20, 10, 30, 35, 0), (50, 10, 60, 65, 30)],
)
def test_an_exchange_runs_beside_compute_until_it_is_awaited(
    exchange: int, began: int, ended: int, total: int, stall: int
) -> None:
    timeline = simulate(step(10, 20, exchange, 5), Schedule((0, 1, 2, 3)))
    assert timeline.exchanges == ((began, ended),)
    assert (timeline.step_ns, timeline.stall_ns) == (total, stall)


def test_exchanges_and_compute_slow_each_other_down() -> None:
    problem = step(10, 20, 10, 0, compute_exchange_ppm=1_000_000, exchange_compute_ppm=500_000)
    timeline = simulate(problem, Schedule((0, 1, 2, 3)))
    assert timeline.exchanges == ((10, 25),)  # 10 at two thirds of the speed
    assert timeline.steps[1] == (10, 38)  # 15 at half the speed are 7.5, the other 12.5 alone


def test_exchanges_take_turns_in_the_order_of_their_steps() -> None:
    values = tuple(Value(name, 64) for name in ("g", "h", "sum g", "sum h"))
    tasks = (
        Task("g", 10, (), (0,), 0),
        Task("h", 10, (), (1,), 0),
        Task("exchange g", 0, (0,), (2,), 0, exchange_ns=30),
        Task("exchange h", 0, (1,), (3,), 0, exchange_ns=5),
    )
    problem = Problem(tasks, values, 1 << 20)
    assert simulate(problem, Schedule((0, 1, 2, 3))).exchanges == ((10, 40), (40, 45))
    assert exchanges(problem, Schedule((0, 1, 3, 2))) == [(2, 2), (2, 3)]  # in list order: g waits for h's start


def test_with_unlimited_memory_exchanges_take_their_time() -> None:
    assert unlimited_ns(step(10, 20, 50, 5)) == 65
    assert unlimited_ns(step(10, 20, 15, 5)) == 35
    assert unlimited_ns(step(10, 20, 0, 5)) == 35


def test_segments_end_where_an_exchange_starts_and_is_awaited() -> None:
    assert boundaries(step(10, 20, 5, 5), Schedule((0, 1, 2, 3))) == {1, 2}
