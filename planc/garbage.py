"""What the garbage collector looks through while a plan is made or loaded: as little as may be."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused() -> Iterator[None]:
    """Let the collector wait, for a moment in which much is made and nothing thrown away: a tenth of the time that a plan
    takes to load. Where the caller has turned it off it stays off."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def settled() -> Iterator[None]:
    """Spare the collector what lives already: it would look through a whole imported model again and again.

    A sixth of the time of a compilation of 7,169 operators. Where the caller keeps objects from the collector (`gc.freeze`)
    nothing is done, and what it keeps is kept.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
