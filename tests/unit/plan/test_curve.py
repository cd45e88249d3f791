"""The curve of a plan: what a smaller budget reaches, a larger one does too."""

from hypothesis import given
from hypothesis import strategies as st

from planc.plan.curve import never_rising, tenth_less_and_more
from planc.plan.plan import CurvePoint

_POINTS = st.lists(st.builds(CurvePoint, st.integers(0, 9), st.integers(1, 30)))


@given(_POINTS)
def test_each_budget_has_the_best_step_of_those_up_to_it(points: list[CurvePoint]) -> None:
    best = {p.budget_bytes: min(q.step_ns for q in points if q.budget_bytes <= p.budget_bytes) for p in points}
    assert never_rising(iter(points)) == tuple(CurvePoint(budget, best[budget]) for budget in sorted(best))


def test_a_plan_is_compared_with_whole_bytes_a_tenth_below_and_above() -> None:
    assert tenth_less_and_more(1000) == (900, 1100)
    assert [type(size) for size in tenth_less_and_more(1009)] == [int, int]
    assert tenth_less_and_more(1009) == (908, 1109)
