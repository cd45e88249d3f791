"""Hyper-parameters of ranks, compared beside their steps."""

from planc.runtime.ranks.settings import SettingsUsed


def used(*rates: float) -> SettingsUsed:
    """After one step with each of the rates."""
    found = SettingsUsed()
    for rate in rates:
        found.use({"lr": (rate, None)})
    return found


def test_what_a_step_used_is_found() -> None:
    found = used(0.1, 0.1, 0.1, 0.2, 0.2)
    assert [found.used_in(step) for step in (0, 2, 3, 4)] == [{"lr": (rate, None)} for rate in (0.1, 0.1, 0.2, 0.2)]
    assert found.used_in(5) is None  # not begun yet
    assert found.last == (4, {"lr": (0.2, None)})


def test_another_value_is_named() -> None:
    found = used(0.1, 0.1, 0.2)
    assert found.differing(1, {"lr": [0.1, None]}) is None
    assert found.differing(1, {"lr": [0.2, None]}) == ("hyper-parameter 'lr'", "0.2, none", "0.1, none")
    assert found.differing(2, {}) == ("hyper-parameter 'lr'", "none", "0.2, none")
    assert found.differing(3, {"lr": [7.0, None]}) is None  # this rank has not come there


def test_what_is_forgotten_differs_from_nothing() -> None:
    found = used(*range(10_000))
    assert found.used_in(0) is None
    assert found.differing(0, {"lr": [7.0, None]}) is None
    assert found.used_in(9_999) == {"lr": (9_999, None)}


def test_nothing_is_said_before_the_first_step() -> None:
    assert SettingsUsed().last is None
    assert SettingsUsed().used_in(0) is None
