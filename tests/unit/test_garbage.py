"""While a plan is made or loaded the garbage collector has less to do, and afterwards it is as it was."""

import gc

import pytest

from planc.garbage import paused, settled


def test_what_lives_is_spared_and_given_back() -> None:
    with settled():
        assert gc.get_freeze_count() > 1_000
        with settled():
            pass
        assert gc.get_freeze_count() > 1_000
    assert gc.get_freeze_count() == 0


def test_what_the_caller_keeps_is_kept() -> None:
    gc.freeze()
    try:
        kept = gc.get_freeze_count()
        with settled():
            pass
        assert gc.get_freeze_count() == pytest.approx(kept, abs=100)
    finally:
        gc.unfreeze()


def test_the_collector_waits_unless_it_is_off() -> None:
    with paused():
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.disable()
    try:
        with paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_an_error_gives_back_too() -> None:
    with pytest.raises(ValueError, match="no plan"), paused():
        raise ValueError("no plan")
    assert gc.isenabled()
    with pytest.raises(ValueError, match="no plan"), settled():
        raise ValueError("no plan")
    assert gc.get_freeze_count() == 0
