"""When a solve ends."""

from planc.schedule.solver import SolveOptions
from planc_solvers.solve_state import SolveState


def test_without_a_plan_a_solve_goes_on_for_as_long_as_its_patience() -> None:
    assert SolveState(1, SolveOptions(0.0)).finished()
    waiting = SolveState(1, SolveOptions(0.0, patience_s=3600.0))
    assert not waiting.finished()
    waiting.best_ns = 2.0
    assert waiting.finished()


def test_a_patience_below_the_time_limit_changes_nothing() -> None:
    assert not SolveState(1, SolveOptions(3600.0)).finished()
