"""When a solve ends."""

from planc_solvers.solve_state import SolveState


def test_without_a_plan_a_solve_goes_on_for_as_long_as_its_patience() -> None:
    assert SolveState(1, 0.0, 0.0).finished()
    waiting = SolveState(1, 0.0, 3600.0)
    assert not waiting.finished()
    waiting.best_ns = 2.0
    assert waiting.finished()


def test_a_patience_below_the_time_limit_changes_nothing() -> None:
    assert not SolveState(1, 3600.0, 0.0).finished()
